"""The mutants: one place of the package each, what stands there, what stands there instead, and who should notice.

To add one, find the group of its file or add one. The old text must be in the file exactly once, which a test checks;
keep it short, so that it outlives other changes. Name the narrowest tests that should fail.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change that tests should notice.

    Attributes:
        old: What is in the file exactly once.
        new: What is there instead.
        equivalent: Why nobody can notice, if so.
        tests: Who should notice, if others than the group's.
    """

    old: str
    new: str
    equivalent: str = ""
    tests: str = ""


@dataclass(frozen=True)
class Group:
    """The mutants of a file below `umamba2/`, and the arguments of pytest that choose the tests that should notice."""

    file: str
    tests: str
    mutants: tuple[Mutant, ...]


M = Mutant
GROUPS = (
    # --- the sliding window -------------------------------------------------------------------------------------------
    Group(
        "engine/tiles.py",
        "tests/engine/test_tiles.py",
        (
            M("math.ceil((size - patch) / (patch * step))", "math.floor((size - patch) / (patch * step))"),
            M("return [round(stride * i)", "return [int(stride * i)"),
            M("(PEAK * weight)", "weight"),
            M("n // 2) / (n / 8)", "n // 2) / (n / 4)"),
            M("- n // 2) /", "- n / 2) /"),
            M("min=SMALLEST_WEIGHT", "min=0"),
            M("(m // 2, m - m // 2)", "(m - m // 2, m // 2)"),
            M("if bits >> i & 1", "if bits >> i & 1 and axis"),
            M("all(s.last == i", "any(s.last == i"),
            M("self._segments[self.outer]]", "self._segments[0]]"),
            M("self.pending_voxels, order = min(", "self.pending_voxels, order = max("),
            M("sum(start <= a for start in starts) - 1", "sum(start < a for start in starts)"),
        ),
    ),
    Group(
        "engine/gpu.py",
        "tests/engine/test_gpu.py",
        (
            M("correction=0", "correction=1"),
            M("SLOPE, EPS = 0.01,", "SLOPE, EPS = 0.02,"),
            M("fused if self.eps == EPS else None", "fused"),
            M("x if skip is None else x.add_(skip)", "x"),
            M("self.skip(x))", "x)", tests="tests/engine/test_gpu.py -k whatever_its_shape"),
            M("joined[:, here:] = skip", "joined[:, here:] = 0"),
            M("conv.bias = None", "pass", tests="tests/engine/test_gpu.py -k before_a_norm"),
            M("(head, name)[order]", "(head, name)", tests="tests/engine/test_gpu.py -k twin"),
            M("if not difference <", "if difference >", tests="tests/engine/test_gpu.py -k does_not_work"),
            M("if is_out_of_memory(error):", "if False:", tests="tests/engine/test_gpu.py -k runs_out"),
        ),
    ),
    Group(
        "engine/crossing.py",
        "tests/engine/test_gpu.py -k land",
        (
            M("self._used += labels.numel()", "pass"),
            M("here.masked_fill(late, 0)", "here"),
            M("non_blocking=True)\n                self", "non_blocking=False)\n                self"),
            M("return tensor.pin_memory()", "return tensor", tests="tests/engine/test_pretend_cuda.py -k once_a_tile"),
        ),
    ),
    Group(
        "engine/blend.py",
        "tests/engine/test_window.py -k 'sums or half or published or small or whole or goes_on'",
        (
            M("(scores - scores.amax(0))", "scores"),
            M("scale = 100 / logits.amax().float().clamp(min=1)", "scale = 100 / logits.amax().float()"),
            M(".clamp_(min=LOWEST_HALF)", ""),
            M("4 * elements <= FULL_PRECISION_BYTES", "4 * elements < FULL_PRECISION_BYTES"),
            M(
                'blend == "nnunet" and not argmax_only',
                'blend == "nnunet"',
                "the same order of classes, with a division more",
            ),
            M("scores += sums.scores[:, rows]", "scores = sums.scores[:, rows].float()"),
            M("weight = weight if sums.weight is None else weight + sums.weight[rows]", "pass"),
            M("if not cell.last and sums is None", "if not cell.last", "takes new memory for the same sums"),
            M("scores.div_(weight) if self._needs_mean else scores", "scores"),
            M("scores if sums.weight is None else scores / sums.weight[rows]", "scores"),
            M("(slice(row, end), *box[1:])", "(slice(start, end), *box[1:])"),
            M("self.dtype = score_dtype(classes * sweep.pending_voxels)", "self.dtype = score_dtype(0)"),
        ),
    ),
    Group(
        "engine/labelmap.py",
        "tests/engine/test_window.py -k 'labels_equal or background or best or hosts_memory'",
        (
            M("max(side.start - before, 0)", "side.start - before"),
            M("min(side.stop - before, size)", "side.stop - before"),
            M("start + before - side.start, stop", "start - side.start, stop"),
            M("NO_SCORE = -1000.0", "NO_SCORE = 1000.0"),
            M("place[0][where] = 0", "pass"),
            M("countdown = 255 - torch", "countdown = torch"),
            M("r.start <= side.start < r.stop", "r.start <= side.start <= r.stop"),
            M("self._pending[0].missing == 0", "self._pending[0].missing <= 1"),
            M("return self._resample(rows.scores.cpu())", "return None"),
            M("boxes += _boxes", "boxes = _boxes", tests="tests/engine/test_labelmap.py"),
            M("int(lines[-1]) + 1", "int(lines[-1])", tests="tests/engine/test_labelmap.py"),
        ),
    ),
    Group(
        "engine/runner.py",
        "tests/engine/test_predict.py -k 'mirror and (folds or pairs or arrays)'",
        (
            M("self._swap[[left, right]] = torch.tensor([right, left])", "pass"),
            M("model.plan.transpose.index(2) if", "2 if"),
            M("total /= len(passes)", "pass"),
            M("some.flip([a + 1 for a in axes])", "some.flip([a + 1 for a in axes[:1]])"),
            M("total[:, rows] += some", "total[:, rows] = some"),
            M(
                "self._swaps if self._has_twins() else",
                "",
                tests="tests/engine/test_pretend_cuda.py -k trade_places",
            ),
            M(
                "slice(size - rows.stop, size - rows.start) if 0 in axes else rows",
                "rows",
                tests="tests/engine/test_window.py -k rows_at_a_time",
            ),
            M(
                "for axes in mirrors(mirror_axes) for fold in self.nets",
                "for fold in self.nets for axes in mirrors(mirror_axes)",
                tests="tests/engine/test_window.py -k images_go_before",
            ),
            M(
                "self.dtype != torch.float32 and not finite",
                "not finite",
                tests="tests/engine/test_window.py -k 'stays_nan'",
            ),
            M("exact = self._in_fp32()", "exact = self", tests="tests/engine/test_window.py -k do_not_fit_run"),
            M("self.batch //= 2", "self.batch = 1", tests="tests/engine/test_window.py -k smaller_batches"),
            M("raise DeviceChanged", "continue", tests="tests/engine/test_window.py -k planned_for"),
            M(
                "if self.dtype != torch.float32:  # what",
                "if True:  # what",
                tests="tests/engine/test_window.py -k cpu_takes_over",
            ),
            M("* (passes > 1)", "* 1", tests="tests/engine/test_window.py -k sum_of_several"),
            M("more > MOST_HALVINGS or", "", tests="tests/engine/test_window.py -k halved_so_often"),
        ),
    ),
    Group(
        "engine/dental_field.py",
        "tests/engine/test_dental_field.py",
        (
            M("* float(mm) > TOLERANCE * size", "* float(mm) > size"),
            M("and any(n * float(mm)", "and all(n * float(mm)"),
            M("amount < self.least", "amount <= 0"),
            M("look.total > self.most", "look.amount > 1e9"),
            M('s.group == "pulp")', "False)"),
            M("FirstLook(None, self.without(labels)", "FirstLook(None, labels"),
            M("if density >= MUCH * highest", "if True"),
            M("math.floor(at - low / mm)", "math.floor(at - high / mm)"),
            M("max(0, math.floor(first - margin))", "max(0, first)"),
            M("min(stop - most, first)", "min(stop - most, start)"),
            M("min(stop, max(start + most, last))", "stop"),
            M("(clicks.labels >= 0) & ", ""),
            M("places[:, None] - places) / BLUR", "places[:, None] - places) / (BLUR / 4)"),
            M("* step * mm\n", "* mm\n"),
            M("(reach[opposite[letter]], reach[letter])", "(reach[letter], reach[opposite[letter]])"),
            M('mode == "auto" and sides is None', 'mode == "auto" and sides is not None'),
        ),
    ),
    Group(
        "engine/off_canal.py",
        "tests/engine/test_off_canal.py",
        (
            M("(now - began) > deadline", "(now - began) < deadline"),
            M("record.stopped or (", "("),
            M("            stretches.next()\n", "            pass\n"),
            M("stretches is not None and error is stretches.stopped", "False"),
            M("if again.stopped:", "if False:"),
            M("record.give_way(again, noted)", "record.give_way(again, 0)"),
            M("at + reach + 1, 0", "at + reach, 0"),
            M("if side < 0:", "if False:"),
            M("canals[side]) + low", "canals[side])"),
            M("1 - clicks.labels", "clicks.labels"),
            M(" + [part.start for part in box]", ""),
            M("places[i], canals", "clicks.coordinates[i], canals"),
        ),
    ),
    Group(
        "segmenter.py",
        "tests/test_segmenter.py -k off_its_canal",
        (
            M(
                "clicks, own = Clicks(places, clicks.labels), clicks.coordinates",
                "clicks, own = Clicks(places, clicks.labels), places",
            ),
            M("or not self.postprocess:", "or False:"),
        ),
    ),
    Group(
        "engine/predict.py",
        "tests/engine/test_dental_field.py",
        (
            M("now + FIRST_SHARE * (deadline - now)", "deadline"),
            M("until, record, 1, watch)", "until, record, 4, watch)"),
            M("box = field.holding(first.box, clicks, shape, spacing)", "pass"),
            M("box is None or first.record.stopped", "box is None"),
            M("stretches is not None and error is stretches.stopped", "False"),
            M("return pasted(labels, box, shape)", "return pasted(first.labels, box, shape)"),
            M("clicks.coordinates - [side.start for side in box]", "clicks.coordinates"),
            M("            stretches.next()\n", "            pass\n"),
        ),
    ),
    Group(
        "engine/window.py",
        "tests/engine/test_window.py -k 'failure or padded or tiles_of or slightest'",
        (
            M(
                "clicks.coordinates + np.array([before",
                "clicks.coordinates - np.array([before",
                tests="tests/engine/test_predict.py -k clicks_in_scan",
            ),
            M("for n in pad])", "for n in pad[::-1]])"),
            M("<= lowest + AIR_TOLERANCE", "<= lowest + 1"),
            M("self._failure = error\n                record.tiles_lost += left", "record.tiles_lost += left"),
            M("record.tiles_lost += left", "record.tiles_lost += 1"),
            M("left -= 1", "pass", tests="tests/engine/test_window.py -k given_up_evenly"),
            M(
                "self.budget.spent(passes, answered - began",
                "self.budget.spent(1, answered - began",
                tests="tests/engine/test_window.py -k given_up_evenly",
            ),
            M(
                "self.budget.forget()",
                "pass",
                "the slower pace that is measured next outweighs the older ones",
                tests="tests/engine/test_window.py -k plan_of_its_own",
            ),
            M(
                "passes = min(passes, self.budget.passes(left))",
                "pass",
                tests="tests/engine/test_window.py -k plan_of_its_own",
            ),
            M("local >= -0.5", "local >= 0", tests="tests/engine/test_predict.py -k only_its_own"),
            M("(local < size - 0.5)", "(local < size + 0.5)", tests="tests/engine/test_predict.py -k only_its_own"),
            M(
                "memory.available() - RESERVED_BYTES",
                "memory.available() - 2**28",
                tests="tests/engine/test_window.py -k costs_overlap",
            ),
            M(
                "[s for s in sweeps if self.budget.affords(len(s.tiles))] or sweeps[-1:]",
                "sweeps[:1]",
                tests="tests/engine/test_window.py -k overlap_goes",
            ),
            M(
                "(s for s in STEPS if s > step)",
                "(s for s in STEPS)",
                tests="tests/engine/test_window.py -k 'plenty or overlap_goes'",
            ),
            M(
                "size > memory.free_on_gpu(device) / 2",
                "size > memory.free_on_gpu(device)",
                tests="tests/engine/test_window.py -k gpus_free",
            ),
        ),
    ),
    Group(
        "engine/budget.py",
        "tests/engine/test_window.py -k budget",
        (
            M("None if deadline == math.inf else deadline", "deadline"),
            M("seconds / passes)", "seconds)"),
            M("_expected(self._extras)) * tiles", "0) * tiles"),
            M("(self.left - extra * tiles)", "self.left"),
            M(">= 2 * self.pace", ">= self.pace"),
            M("max(recent[-1], sum(recent) / len(recent))", "sum(recent) / len(recent)"),
            M("if self.left <= 0", "if self.left < 0"),
        ),
    ),
    Group(
        "engine/subtiles.py",
        "tests/engine/test_window.py -k 'pieces'",
        (
            M("(0.5 + OVERLAP)", "0.5"),
            M("-int(-half // multiple[axis])", "int(half // multiple[axis])"),
            M("key=lambda a: -shape[a]", "key=lambda a: shape[a]"),
            M("(at + 0.5) * (whole / size) - 0.5", "at"),
            M("torch.where(inside, clicks.labels, -1)", "clicks.labels"),
            M("if size < shape[axis]", "if size <= shape[axis]"),
            M("middle = start + (stop - start) // 2", "middle = start + size"),
        ),
    ),
    Group(
        "engine/coarse.py",
        "tests/engine/test_window.py -k coarse",
        (
            M("(clicks.coordinates + 0.5) * scale - 0.5", "clicks.coordinates"),
            M("not self._refined and", ""),
            M("self.budget.spent(1, pace)", "pass"),
            M("side.stop) + 0.5)", "side.stop))"),
            M("pace = seconds / ratio", "pace = seconds"),
        ),
    ),
    Group(
        "engine/resample.py",
        "tests/engine/test_preprocess.py",
        (
            M("> plan.separate_z_threshold", ">= plan.separate_z_threshold"),
            M("coarsest[0] if len(coarsest) == 1 else None", "coarsest[0]"),
            M("for candidate in (spacing, plan.spacing)", "for candidate in (spacing,)"),
            M("(size / target) - 0.5)", "(size / target))"),
            M("ready = int((high < taken).sum())  #", "ready = int((low < taken).sum())  #"),
        ),
    ),
    # --- what is before and after it ------------------------------------------------------------------------------
    Group(
        "engine/harmonise.py",
        "tests/engine/test_greys.py",
        (
            M("AIR, SOFT_TISSUE = -1000.0, 40.0", "AIR, SOFT_TISSUE = -1100.0, 40.0"),
            M("AIR, SOFT_TISSUE = -1000.0, 40.0", "AIR, SOFT_TISSUE = -1000.0, 44.0"),
            M("CROSSED = 0.02", "CROSSED = 0.022"),
            M("MUCH = 2 / 3", "MUCH = 2.2 / 3"),
        ),
    ),
    Group(
        "engine/greys.py",
        "tests/engine/test_greys.py",
        (
            M("BINS = 512", "BINS = 563"),
            M("BLUR = 6 ", "BLUR = 6.6 "),
            M("DEEP = 0.25", "DEEP = 0.275"),
            M("SMALLEST = 0.005", "SMALLEST = 0.0055"),
            M("SHARE = 0.5", "SHARE = 0.55"),
            M("DISTINCT = 32", "DISTINCT = 35"),
            M("UPPER = 0.6", "UPPER = 0.66"),
            M(">= 0.75 * part.max()", ">= 0.825 * part.max()"),
        ),
    ),
    Group(
        "engine/preprocess.py",
        "tests/engine/test_preprocess.py tests/engine/test_padding.py -m 'not slow'",
        (
            M("(inside + 0.5) * scale - 0.5", "inside * scale"),
            M('max(intensity["std"], 1e-8)', 'max(intensity["std"], 1.0)'),
            M("round(s / t * n)", "int(s / t * n)"),
            M("coordinates[:, list(self.transpose)]", "coordinates"),
        ),
    ),
    Group(
        "engine/postprocess.py",
        "tests/engine/test_postprocess.py",
        (
            M("(labels[where] == label + 1)", "(result[where] == label + 1)"),
            M(":.6g}", ":.12g}"),
            M("size * factor < limit", "size * factor <= limit"),
            M("near = np.rint(", "near = np.floor("),
            M("connectivity=connectivity", "connectivity=26"),
        ),
    ),
    # --- scans --------------------------------------------------------------------------------------------------------
    Group(
        "scans/clicks.py",
        "tests/scans/test_clicks.py tests/training/test_simulated_clicks.py",
        (
            M("-0.5 <= c < size - 0.5", "0 <= c < size - 0.5"),
            M("-0.5 <= c < size - 0.5", "-0.5 <= c < size"),
            M("rng.integers(-slice_noise,", "rng.integers(0,"),
            M("rng.integers(-in_slice_noise,", "rng.integers(0,"),
            M("np.median(here", "np.mean(here"),
            M("labels < 0, labels, 1 - labels", "labels < 0, labels, labels"),
            M("shape[axis] - 1 - coordinates", "shape[axis] - coordinates"),
            M("if len(candidates) == 1 else None", "if candidates else None"),
        ),
    ),
    Group(
        "scans/orientation.py",
        "tests/scans/test_orientation.py",
        (
            M("least = min(", "least = max("),
            M("(geometry.size[own] - 1)", "geometry.size[own]"),
            M("- 1 - result[:, axis]", "- result[:, axis]"),
        ),
    ),
    Group(
        "scans/voxels.py",
        "tests/scans/test_sizes.py",
        (
            M("if spare >= _layer(shape, dtype):", "if spare > _layer(shape, dtype):"),
            M("dtype.itemsize // max(shape)", "dtype.itemsize // min(shape)"),
            M("if spare <= 0:", "if True:"),
            M("(done if header.packed else _there(header)) - size", "done - size"),
            M(
                "file.seek(header.data.stat().st_size - size if header.last else header.offset)",
                "file.seek(header.offset)",
            ),
            M("if header.doubt:", "if False:"),
            M("if header.packed_size not in (0, end - header.offset):", "if header.packed_size:"),
            M("if size + more > free:", "if size > free:", tests="tests/scans/test_hostile.py"),
            M("if done >= content.size and not packed.startswith(_GZIP):", "if done >= content.size:"),
        ),
    ),
    Group(
        "scans/nifti.py",
        "tests/scans/test_sizes.py -k place",
        (
            M("if skip < at:", "if skip <= at:"),
            M("or at == length + 4)", "or False)"),
            M("if at > skip else", "if at >= skip else"),
            M("or start_of_voxels != int(start_of_voxels):", "or False:"),
        ),
    ),
    Group(
        "scans/headers.py",
        "tests/scans/test_sizes.py",
        (
            M("if local and 0 < skip < position:", "if False:"),
            M("if len(found) != count or", "if len(found) < count or"),
            M("if data.samefile(path):", "if data == path:"),
            M(
                'line.partition(": ")',
                'line.partition(":")',
                tests="tests/scans/test_sizes.py tests/scans/test_formats.py",
            ),
            M("if key in fields and not _are_numbers(fields[key]):", "if False:"),
            M("if swallowed:", "if False:"),
            M("if not local and start[position:].strip():", "if False:"),
            M("for less in (0, 1)]", "for less in (0,)]"),
            M("if len(set(stated.values())) > 1:", "if len(stated) > 1:"),
        ),
    ),
    Group(
        "scans/nifti.py",
        "tests/scans/test_sizes.py",
        (
            M("bool(np.isfinite(slope)) and slope != 0", "bool(np.isfinite(slope))"),
            M("if np.isinf(slope) or not", "if not"),
            M('if fields["bitpix"] != bits:', "if False:"),
        ),
    ),
    Group(
        "scans/pages.py",
        "tests/scans/test_pages.py",
        (
            M("if value != first[tag]:", "if False:"),
            M("if (kind[_BITS], kind[_FORMAT]) not in _KINDS:", "if False:"),
            M("(regions[1:, 0] < regions[:-1, 1]).any()", "False"),
            M("int(sizes.sum()) != height * row:", "int(sizes.sum()) > height * row:"),
            M("if spare > _PADDING * len(regions) + max", "if False and max"),
            M("min(_BLOCK, size - 1)", "_BLOCK"),
            M("max(_RESERVE, min(_BLOCK, size - 1))", "_RESERVE"),
            M("if first[_COMPRESSION] in _DEFLATED:", "if False:"),
            M("if size > expected:", "if False:"),
            M("for (_, before, _), (_, after, _) in", "for (before, _, _), (after, _, _) in"),
            M("if not plane == page == named:", "if False:"),
            M("itself[1].strip() == uuid.strip()", "False"),
            M('start[2:4] in (b"\\0+", b"+\\0")', 'start[2:4] == b"+\\0"'),
        ),
    ),
    Group(
        "scans/spacing.py",
        "tests/scans/test_spacing.py",
        (
            M("VOXEL = (0.05, 1.5)", "VOXEL = (0.05, 1.65)"),
            M("VOXEL = (0.05, 1.5)", "VOXEL = (0.055, 1.5)"),
            M("likely[-1]", "likely[0]"),
            M("mm * factor for mm in geometry.origin", "mm for mm in geometry.origin"),
        ),
    ),
    # --- anatomy, challenges, models, networks --------------------------------------------------------------------
    Group(
        "anatomy/structures.py",
        "tests/anatomy",
        (
            M("12: 888.1,", "12: 976.9,"),
            M("if one < other)", "if one > other)"),
            M('"left": "right", "right": "left"', '"left": "right"'),
        ),
    ),
    Group(
        "challenges/stsr.py",
        "tests/challenges tests/anatomy",
        (M("tile_step=0.8", "tile_step=0.88"),),
    ),
    Group(
        "challenges/toothfairy3.py",
        "tests/challenges tests/engine/test_postprocess.py",
        (M("connectivity=18", "connectivity=26"), M("connectivity=26", "connectivity=18")),
    ),
    Group(
        "models/network.py",
        "tests/models/test_folder.py",
        (
            M("merged = {**found, **merged}", "merged = {**merged, **found}"),
            M('anisotropy_threshold": 3}', 'anisotropy_threshold": 3.3}'),
        ),
    ),
    Group(
        "models/weights.py",
        "tests/models/test_hostile.py",
        (
            M("if begin != last:", "if begin > last:"),
            M("if last != size:", "if last > size:"),
            M("and len(shape) <= _MOST_AXES", ""),
        ),
    ),
    Group(
        "models/checkpoint.py",
        "tests/models/test_hostile.py",
        (M("if condition(file) != before:", "if False:"),),
    ),
    Group(
        "models/doubts.py",
        "tests/models/test_doubts.py",
        (
            M("| (filters.abs() < _NOTHING).all(1)", ""),
            M("not in (0, 1)", "!= 0"),
            M("return blocked or one", "return blocked"),
            M(".flatten(1) if", ".flatten()[None] if"),
        ),
    ),
    Group(
        "models/locate.py",
        "tests/models/test_locate.py tests/jobs/test_contract.py",
        (M("if len(wrapped) == 1 else ()", ""), M("if _holds_anything(place)", "if False")),
    ),
    Group(
        "nets/mamba2.py",
        "tests/nets/test_mamba2.py",
        (
            M("A=-self.A_log.exp()", "A=self.A_log.exp()"),
            M("norm_before_gate=False", "norm_before_gate=True"),
            M("steps + torch.log(-torch.expm1(-steps))", "steps"),
            M("y = y * F.silu(z)\n", "y = y * z\n"),
            M("if self.training else None", "if True else None"),
        ),
    ),
    Group(
        "nets/ssd.py",
        "tests/nets/test_mamba2.py",
        (M(".triu(1)", ".triu(0)"), M("state = state * since_start[:, -1]", "state = state * since_start[:, 0]")),
    ),
    Group(
        "nets/prompts.py",
        "tests/nets/test_nets.py",
        (
            M("coordinates.float() + 0.5", "coordinates.float()"),
            M("dtype=torch.float32) + 0.5) / n", "dtype=torch.float32)) / n"),
        ),
    ),
    # --- wings --------------------------------------------------------------------------------------------------------
    Group(
        "evaluation/stsr.py",
        "tests/evaluation/test_graders.py -k stsr",
        (
            M("grid.zyx_spacing", "grid.spacing"),
            M("overlap >= MATCH", "overlap > MATCH"),
            M("TOLERANCE = 2.0", "TOLERANCE = 2.2"),
            M("if theirs is not None:\n            predicted", "if True:\n            predicted"),
        ),
    ),
    Group(
        "evaluation/toothfairy3.py",
        "tests/evaluation/test_graders.py -k 'not stsr'",
        (
            M("(labels >= 0) & (labels <= 255)", "labels >= 0", "what wraps around is not equal to its id"),
            M("np.where(ids == labels, ids, 0)", "ids"),
            M("(a + b) / 2 for a, b", "a for a, b"),
            M("= values[-1]", "= values[0]"),
            M('if structure.group == "pulp"', "if False"),
        ),
    ),
    Group(
        "evaluation/metrics.py",
        "tests/evaluation/test_metrics.py",
        (
            M("np.sqrt(squared, dtype=np.float64), 95)", "np.sqrt(squared, dtype=np.float64), 94)"),
            M("return 0.0\n    areas", "return 1.0\n    areas"),
        ),
    ),
    Group(
        "training/losses.py",
        "tests/training/test_losses.py",
        (
            M("enabled=False", "enabled=True"),
            M(".mT.float().log_softmax", ".mT.log_softmax"),
            M("dice[..., 1:]", "dice"),
            M("share / len(others)", "share"),
        ),
    ),
    Group(
        "training/augment.py",
        "tests/training/test_augment.py",
        (
            M("table[-1] = -1", "pass"),
            M('self.left_right_axis in params["axes"]', "True"),
            M("low * n + 1e-9", "low * n", "0.1 is a little more than a tenth"),
            M("torch.cat([img, self", "torch.cat([img.clone(), self", "the strong transforms work on a copy anyway"),
        ),
    ),
    Group(
        "training/semi_supervised.py",
        "tests/training/test_semi_supervised.py",
        (
            M("logits.float().softmax(1)", "logits.softmax(1)"),
            M("(best < confidence) | (label == 0)", "best < confidence"),
            M("best < confidence", "best <= confidence"),
            M("min(1.0, done / settings.ramp)", "done / settings.ramp"),
        ),
    ),
    Group(
        "training/clicks.py",
        "tests/training/test_simulated_clicks.py",
        (
            M("< settings.fewest_voxels", "<= settings.fewest_voxels"),
            M("settings.most + 1", "settings.most"),
            M("labels == side + 1", "labels == 2 - side"),
        ),
    ),
    Group(
        "training/schedules.py",
        "tests/training/test_schedules.py",
        (
            M("max(1, stage.epochs - 1)", "max(1, stage.epochs)"),
            M("if epoch < stage.epochs", "if epoch <= stage.epochs"),
        ),
    ),
    Group(
        "training/watching.py",
        "tests/training/test_watching.py -k 'time_of_a_stage or part_of_the_verdict or before_the_first_step'",
        (
            M("epochs * steps * step", "epochs * step"),
            M("if needed > free:", "if needed > free + 1:"),
            M("if short and self.options.dry_run:", "if False:"),
        ),
    ),
    Group(
        "training/run.py",
        "tests/training/test_run.py",
        (M("max(grids, key", "min(grids, key"), M("if not dry_run:", "if True:")),
    ),
    Group(
        "training/preprocess.py",
        "tests/training/test_run.py",
        (
            M("if only is not None:", "if False:"),
            M("list(volume.spacing)", "list(volume.geometry.zyx_spacing)"),
        ),
    ),
    Group(
        "reports/checks.py",
        "tests/reports/test_checks.py tests/reports/test_field.py",
        (
            M("if fdi % 10 == 8]", "if fdi % 10 == 7]"),
            M("elif m.volume < smallest and not m.at_border", "elif m.volume < smallest"),
            M(
                "if 1 < len(swapped) == len(pairs):\n        return [Remark(WARNING, texts.MIRRORED)]",
                "if False:\n        return []",
            ),
        ),
    ),
    Group(
        "exports/meshes.py",
        "tests/exports/test_exports.py",
        (M("if mesh.volume < 0", "if False"), M("vertices + start", "vertices"), M("(low, level)", "(low, high)")),
    ),
    Group(
        "exports/files.py",
        "tests/exports/test_exports.py -k 'watcher'",
        (M("            step()\n", ""),),
    ),
    Group(
        "web/intake.py",
        "tests/web/test_server.py -k 'on_its_way'",
        (M("received[0] -= size", "pass"), M("received[0] + len(chunk)", "received[0]")),
    ),
    # --- phantoms -----------------------------------------------------------------------------------------------------
    Group(
        "synthetic/heads.py",
        "tests/synthetic/test_heads.py",
        (
            M("array[outside] = 0", "pass"),
            M("slice(min(last + 4,", "slice(min(first,"),
            M("    if part in TOOTHLESS:", "    if False:"),
        ),
    ),
    Group(
        "synthetic/bone_meshes.py",
        "tests/synthetic/test_bone_meshes.py",
        (M("if front > (low + high)[1] / 2", "if front < (low + high)[1] / 2"), M(" > OPEN:", " > 1:")),
    ),
    Group(
        "synthetic/dentistry.py",
        "tests/synthetic/test_dentistry.py",
        (
            M("own[1] *= np.sign(own[1] @ tooth.axes[1])", "pass"),
            M("shift -= closing * width", "shift += closing * width"),
        ),
    ),
    Group(
        "synthetic/restorations.py",
        "tests/synthetic/test_restorations.py",
        (
            M("third_canal &= number == 0", "third_canal &= True"),
            M("elif erupted(tooth) and luck < lost:", "elif luck < lost:"),
        ),
    ),
    Group(
        "synthetic/painting.py",
        "tests/synthetic/test_restorations.py",
        (
            M("body = np.maximum(body, c - (start", "body = np.maximum(body, c + (start"),
            M("filling.value, only=own)", "filling.value)"),
            M("bright and tooth.streak", "bright"),
        ),
    ),
    Group(
        "synthetic/solids.py",
        "tests/synthetic/test_restorations.py",
        (
            M("ROOT_PROFILE + tooth.thin * (THIN", "ROOT_PROFILE + 0 * (THIN"),
            M("(1 - 0.4 * t) * narrow", "(1 - 0.4 * t)"),
        ),
    ),
    # --- from file to file --------------------------------------------------------------------------------------------
    Group(
        "jobs/locate.py",
        "tests/jobs/test_contract.py",
        (
            M("{suffix(Path(c.output_name))} == endings", "suffix(Path(c.output_name)) in endings"),
            M("c.takes_clicks == clicks", "True"),
            M('entry.get("interface")', 'entry.get("nothing")'),
            M(".is_relative_to(folder.resolve()) and", ".exists() and"),
        ),
    ),
    Group(
        "files.py",
        "tests/test_elsewhere.py tests/scans/test_files.py",
        (M("os.O_CREAT | os.O_EXCL", "os.O_CREAT"), M("if os.path.realpath(found) == target", "if False")),
    ),
)
