// What takes time: files on their way, tasks of the server, the bar that shows them and the button that ends them.

import * as api from './api.js';

const $ = (id) => document.getElementById(id);
let busy = 0;
let running = null; // the task that can be cancelled
let sending = null; // the upload that can be

export const uploading = () => sending !== null;

export async function cancel() {
  if (sending) sending.abort();
  else if (running) await api.cancel(running);
}

// Show a task until it is over. Returns its result, null if it was cancelled.
export async function work(task) {
  busy += 1;
  const shown = setTimeout(() => { $('work').hidden = false; }, 150); // what is over at once needs no bar
  try {
    return await api.follow(task, (news) => {
      running = news;
      $('what').textContent = news.what[0].toUpperCase() + news.what.slice(1);
      $('step').textContent = news.state === 'queued'
        ? `waiting, ${news.place} before it`
        : news.total > 0 ? `${news.each} ${news.done} of ${news.total}`.trim() : 'working';
      if (news.state === 'running' && news.total > 0) {
        $('progress').max = news.total;
        $('progress').value = news.done;
      } else $('progress').removeAttribute('value');
    });
  } finally {
    clearTimeout(shown);
    busy -= 1;
    if (!busy) { $('work').hidden = true; running = null; }
  }
}

// Send the files of a scan, a few at a time.
export async function upload(scan, files) {
  const bar = $('progress');
  sending = new AbortController();
  const { signal } = sending;
  $('what').textContent = 'Send the scan';
  $('work').hidden = false;
  bar.max = files.length;
  let next = 0;
  let sent = 0;
  const sender = async () => {
    while (next < files.length) {
      const { name, file } = files[next++];
      await api.send(scan, 'files', name, file, {}, signal);
      bar.value = ++sent;
      $('step').textContent = `${sent} of ${files.length}`;
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(4, files.length) }, sender));
  } finally {
    sending = null;
    $('work').hidden = true;
  }
}
