// The server's interface: requests, uploads, and tasks that are followed until they are over.

export class Refused extends Error {}

async function ask(method, path, { body, json, signal } = {}) {
  const options = { method, signal, body };
  if (json !== undefined) {
    options.body = JSON.stringify(json);
    options.headers = { 'Content-Type': 'application/json' };
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused('The server does not answer. Is it still running?');
  }
  if (answer.ok) return answer;
  let line = `${answer.status} ${answer.statusText}`;
  try { line = (await answer.json()).error || line; } catch { /* no JSON: the status says it */ }
  const refused = new Refused(line);
  refused.status = answer.status;
  throw refused;
}

export const about = async () => (await ask('GET', '/api')).json();
export const newScan = async () => (await (await ask('POST', '/api/scans')).json()).scan;
export const scanFacts = async (scan) => (await ask('GET', `/api/scans/${scan}`)).json();
export const closeScan = (scan) => ask('DELETE', `/api/scans/${scan}`);
export const drawn = async (scan, box) => {
  const part = box ? `?box=${[...box[0], ...box[1]].join(',')}` : '';
  return new Uint8Array(await (await ask('GET', `/api/scans/${scan}/drawn${part}`)).arrayBuffer());
};
export const image = async (scan) => (await ask('GET', `/api/scans/${scan}/image`)).arrayBuffer();
export const send = (scan, to, name, file, more = {}, signal = undefined) =>
  ask('PUT', `/api/scans/${scan}/${to}?${new URLSearchParams({ name, ...more })}`, { body: file, signal });

export const begin = async (method, path, json) => (await ask(method, path, { json })).json();
export const cancel = (task) => ask('DELETE', `/api/tasks/${task.task}`);

// Follow a task until it is over; `told` gets the news. Returns its result, null if it was cancelled.
export async function follow(task, told) {
  while (!['done', 'failed', 'cancelled'].includes(task.state)) {
    told(task);
    task = await (await ask('GET', `/api/tasks/${task.task}?after=${task.version}&place=${task.place}`)).json();
  }
  if (task.state === 'failed') throw new Refused(task.error);
  return task.state === 'done' ? task.result : null;
}
