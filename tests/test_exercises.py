"""Every exercise: its solution passes its check, an empty or wrong answer fails it in words, and the student edition
runs from top to bottom."""
import __future__

import ast
import builtins
import contextlib
import dis
import importlib.util
import io
import os
import re
import sys
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import nbformat
import pytest

plt = pytest.importorskip("matplotlib.pyplot")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("nbgrader", reason="pip install nbgrader")

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("student", ROOT / "tools" / "student.py")
student = importlib.util.module_from_spec(spec)
spec.loader.exec_module(student)

NOTEBOOKS = [*sorted((ROOT / "nbs").glob("*.ipynb")), *sorted((ROOT / "nbs" / "appendix").glob("*.ipynb"))]
LESSONS = {path.stem: path for path in NOTEBOOKS if "#| exercise:" in path.read_text(encoding="utf-8")}
RUN_WHOLE = ("06_schedules", "14_assignment")  # in a kernel, from top to bottom

# A wrong answer, made from the solution by replacing a piece of it, and a word of what its check must then say: lesson,
# exercise, piece, by, word.
WRONG = [
    ("00_whole_game", "1", "torch.zeros(1, 1, size, size, dtype=torch.bool)", "torch.zeros(1, 1, size, size)",
     "should be torch.bool"),
    ("00_whole_game", "1", "torch.zeros(1, 1, size, size,", "torch.zeros(size, size,", "one hole, one channel"),
    ("00_whole_game", "1", "return hole", "return ~hole", "True means missing"),
    ("00_whole_game", "1", "top:bottom, left:right", "top:bottom + 1, left:right + 1", "the ends are not included"),
    ("00_whole_game", "1", "top:bottom, left:right", "left:right, top:bottom", "rows come before columns"),
    ("00_whole_game", "1", "(1, 1, size, size,", "(1, 1, 64, 64,", "`size` should count"),
    ("00_whole_game", "2", "~(changed & ~holes)", "~(changed & holes)", "inside the hole were changed"),
    ("00_whole_game", "2", "~(changed & ~holes)", "~changed", "inside the hole were changed"),
    ("00_whole_game", "2", "return ~(", "return (", "inside the hole were changed"),
    ("00_whole_game", "2", ".flatten(1).any(1)", ".any()", "one answer for each"),
    ("00_whole_game", "2", "mended != images", "(mended - images).abs() > 1e-3", "exactly as they were"),
    ("00_whole_game", "2", "(mended != images)", "(mended != images)[:, :1]", "in every channel"),
    ("01_images", "1", "(unit * 2 - 1).masked_fill(hole, 0.0)", "unit.masked_fill(hole, 0.0) * 2 - 1", "-1 is black"),
    ("01_images", "1", "unit * 2 - 1", "unit * 2", "from 0..1 to -1..1"),
    ("01_images", "1", "(hole, 0.0)", "(~hole, 0.0)", "True means missing"),
    ("01_images", "1", "(unit * 2 - 1).masked_fill(", "unit.mul_(2).sub_(1).masked_fill(", "was changed"),
    ("01_images", "2", ".remainder(size)", ".clamp(0, size - 1)", "comes the first"),
    ("01_images", "2", "trail(0, 0, 1) * size + trail(1, 2, 3)", "trail(0, 2, 3) * size + trail(1, 0, 1)",
     "stay in the row"),
    ("01_images", "2", "trail(0, 0, 1)", "trail(0, 1, 0)", "to a smaller row"),
    ("01_images", "2", "(start[:, axis:axis + 1] +", "(start[:1, axis:axis + 1] +", "must not share"),
    ("a_drawn_cats", "1", "cat.u, cat.v - 0.42, 0.42", "cat.x, cat.y - 0.42, 0.42", "cat.u and cat.v"),
    ("a_drawn_cats", "1", "cat.v - 0.42, 0.42, 0.28).abs() - 0.035, 0.4 - cat.v",
     "cat.y - 0.42, 0.42, 0.28).abs() - 0.035, 0.4 - cat.y", "wears it askew"),
    ("a_drawn_cats", "1", "[200, 40, 60]", "[40, 60, 200]", "more red"),
    ("a_drawn_cats", "1", "cat.u, cat.v - 0.42, 0.42", "cat.u, cat.v - 0.7, 0.01", "spans the neck"),
    ("a_drawn_cats", "1", ".abs() - 0.035", ".abs() - 0.9", "`abs()` of a distance"),
    ("a_drawn_cats", "1", "paint(canvas, palette", "paint(canvas.clone(), palette", "in place"),
    ("a_drawn_cats", "1", "palette([200, 40, 60])[0]", "255 * palette([200, 40, 60])[0]", "divides by 255"),
    ("02_vqgan", "1", "tokens.shape[1] *", "tokens.numel() *", "per image, not per batch"),
    ("02_vqgan", "1", "math.log2", "math.log", "base 2"),
    ("02_vqgan", "1", "perplexity(tokens, codebook_size)", "len(tokens.unique())", "frequencies 1/2"),
    ("02_vqgan", "2", "count.lerp_(", "count = count.lerp(", "in place"),
    ("02_vqgan", "2", "1 - decay", "decay", "at decay 0.75"),
    ("02_vqgan", "2", "return total / count", "return total.lerp(won.T @ z, 1 - decay) / count", "code 0 is"),
    ("02_vqgan", "2", "total.lerp_(won.T @ z, 1 - decay)", "total.add_(won.T @ z)", "total[0] is"),
    ("02_vqgan", "2", ".clamp(min=1e-6)", "", "clamp it"),
    ("03_attention", "1", "torch.special.entr(weights)", "-(weights * weights.log())", "must count as 0"),
    ("03_attention", "1", ".sum(-1)", ".sum()", "three numbers"),
    ("03_attention", "1", ".exp()", "", "over all 3 tokens"),
    ("03_attention", "1", "torch.special.entr(weights).sum(-1).exp()", "1 / weights.amax(-1)", "spread over 2"),
    ("03_attention", "2", ".amax(-1)", ".sum(-1)", "token 5"),
    ("03_attention", "2", "(place[:, None] - place[None]).abs().amax(-1) <= 1",
     "(place[:, None] == place[None]).any(-1)", "token 5"),
    ("03_attention", "2", " <= 1", "", "takes a bool mask"),
    ("03_attention", "2", "(place[:, None] - place[None]).abs().amax(-1) <= 1",
     "(lambda d: d.le(1) & (place[:, None, 0] == place[:, 0]) | (d - side).abs().le(1))((torch.arange(side**2)[:, None] - torch.arange(side**2)).abs())",
     "on a 5x5 grid"),
    ("03_attention", "3", "mixed * shrink", "mixed", "are both sums shrunk"),
    ("03_attention", "3", "mixed / total", "mixed", "already with a single block"),
    ("03_attention", "3", "torch.maximum(top, scores.amax(-1, keepdim=True))", "torch.zeros_like(top)",
     "subtract the largest score"),
    ("03_attention", "3", "zip(k.split(block), v.split(block))", "[(k, v)]", "was built"),
    ("03_attention", "3", "scores = q @ keys.T / q.shape[-1] ** 0.5",
     "scores = (q @ k.T)[:, (k[:, None] == keys).all(-1).any(1)] / q.shape[-1] ** 0.5", "was built"),
    ("03_attention", "3", "(scores - new_top).exp()", "(scores - new_top).clamp(min=-1).exp()", "single block"),
    ("04_transformer", "1", " + 2 * 2 * dim", "", "that is the two norms"),
    ("04_transformer", "1", "attention_part + ", "", "that is the whole attention"),
    ("04_transformer", "2", "new.load_state_dict(state)", "new.position_embedding.data = state['position_embedding']",
     "should be the old ones"),
    ("04_transformer", "2", ".T.view(1, -1, old_side, old_side)", ".reshape(1, -1, old_side, old_side)",
     "mind which axis"),
    ("04_transformer", "2", '"bicubic"', '"bilinear"', "which mode interpolates"),
    ("04_transformer", "2", "replace(old.config, num_tokens", "replace(little, num_tokens", "are `side` and the old"),
    ("04_transformer", "2", "size=(side, side)", "scale_factor=2", "are `side` and the old"),
    ("04_transformer", "3", "(rows[:, None] + columns[None])", "(rows[None] + columns[:, None])", "are swapped"),
    ("04_transformer", "3", "x = x + self.code_in(tokens, self.codes)", "pass", "must be added as well"),
    ("04_transformer", "3", "self.dropout(", "(", "dropout"),
    ("04_transformer", "3", "self.dropout(", "F.dropout(p=self.config.dropout, input=", "outside of training"),
    ("04_transformer", "3", " if self.config.norm_first else self.norm(x)", "", "before the dropout"),
    ("05_masking", "1", ".item()", "", "should return a float"),
    ("05_masking", "1", "True]]), label_smoothing", "True]])", "are both arguments used"),
    ("05_masking", "1", "label_smoothing / codes", "0.2 / codes", "1.017"),
    ("05_masking", "2", ".flatten(1)", "", "should be (2, 256)"),
    ("05_masking", "2", "blocks = random_mask(ratio, num_tokens=64, generator=generator)",
     "return random_mask(ratio, generator=generator)", "masked in part"),
    ("05_masking", "2", ", generator=generator", "", "is `generator` passed on"),
    ("05_masking", "2", "random_mask(ratio, num_tokens=64, generator=generator)",
     "keep_lowest(torch.rand(len(ratio), 64, generator=generator), (64 * ratio).long())", "rounded up, at least one"),
    ("05_masking", "3", "((surprise * mask).sum(1) / mask.sum(1)).mean()", "surprise[mask].mean()",
     "average within each image first"),
    ("05_masking", "3", "((surprise * mask).sum(1) / mask.sum(1)).mean()", "surprise.mean()", "must not count"),
    ("05_masking", "3", "((surprise * mask).sum(1) / mask.sum(1)).mean()", "(surprise * mask).mean(1).mean()",
     "number of masked tokens"),
    ("05_masking", "3", ".mean()", "", "a single number"),
    ("05_masking", "3", ".mean()", ".mean().item()", "without `.item()`"),
    ("06_schedules", "1", ", 1)", ", 0)", "counted from 1"),
    ("06_schedules", "1", "<=", "<", "does exactly half count"),
    ("06_schedules", "1", "(schedule, n, steps)", "(schedule, n, 8)", "are n and steps used"),
    ("06_schedules", "1", "return step", "return float(step)", "a whole number"),
    ("06_schedules", "2", "math.log(first / n) / math.log(1 / steps)", "math.log(1 / steps) / math.log(first / n)",
     "the other way up"),
    ("06_schedules", "2", "/ n)", "/ 256)", "reveals"),
    ("06_schedules", "3", "mean *", "256 *", "is it `mean`"),
    ("06_schedules", "3", "range(1, steps + 1)", "range(steps)", "does t reach"),
    ("06_schedules", "3", "min(left - 1, ", "min(left, ", "at least one"),
    ("07_decoding", "1", "max(", "min(", "the best of the candidates"),
    ("07_decoding", "1", "return max(candidates", "return max((0, 0.5, 1, 2, 4.5)", "is `candidates` used"),
    ("07_decoding", "1", "steps=steps", "steps=6", "is `steps` used"),
    ("07_decoding", "1", "steps=steps, ", "", "is `steps` used"),
    ("07_decoding", "1", "share_valid(model", "share_valid(doubtful", "is `model` used"),
    ("07_decoding", "2", "-mask", "mask", "scores fall along each row"),
    ("07_decoding", "2", "-mask.nonzero()[:, 1].float()", "-torch.arange(16.0).expand(mask.shape[0], 16)",
     "should be 4 scores"),
    ("07_decoding", "2", "-mask.nonzero()[:, 1].float()", "-torch.arange(len(drawn))", "scores must be floats"),
    ("07_decoding", "3", "torch.where(mask, sample_tokens(logits, draws.uniform(16)), tokens)",
     "sample_tokens(logits, draws.uniform(16))", "draw only under"),
    ("07_decoding", "3", "tokens.masked_fill(mask, doubtful.mask_token_id)", "tokens",
     "should see the mask token at all"),
    ("07_decoding", "3", "keep_lowest(score,", "keep_lowest(score.masked_fill(~mask, torch.inf),", "rank all tokens"),
    ("07_decoding", "3", "keep_lowest(score,", "keep_lowest(-score,", "the lowest masked"),
    ("08_inpainting", "1", "torch.ones(", "torch.zeros(", "True means missing"),
    ("08_inpainting", "1", "start + kept, start:start + kept", "start + kept, start - 2:start + kept - 2",
     "not in the middle"),
    ("08_inpainting", "1", "size - kept", "size - 32", "not in the middle"),
    ("08_inpainting", "2", ".std(0).mean(0)", ".mean(1).std(0)", "deviation over the mendings first"),
    ("08_inpainting", "2", ".std(0)", ".var(0)", "no variance"),
    ("08_inpainting", "2", ".mean(0)", "", "should have shape (64, 64)"),
    ("08_inpainting", "2", ", **options).images", ").images", "`options` should be handed on"),
    ("08_inpainting", "2", ").images", ").images[:1].expand(n, -1, -1, -1)", "all mendings are equal"),
    ("08_inpainting", "2", "generator=generator, ", "", "should follow `generator`"),
    ("08_inpainting", "3", "model.vqgan.encode(mended)", "model.vqgan.encode(mended.masked_fill(holes, 0.0))",
     "those of the mended pictures"),
    ("08_inpainting", "3", "hole_to_mask(holes)", "hole_to_mask(holes, dilate=1)", "mask only what the holes touch"),
    ("08_inpainting", "3", "return step.tokens", "return tokens", "decode them anew"),
    ("08_inpainting", "3", "generator=generator", "generator=torch.Generator().manual_seed(0)", "another generator"),
    ("08_inpainting", "3", ", generator=generator", "", "every draw should come from it"),
    ("08_inpainting", "3", "steps=steps", "steps=8", "hand `steps` on"),
    ("g_widgets", "1", "<!doctype html>", "<html>", "begins with <!doctype html>"),
    ("g_widgets", "1", '<meta charset="utf-8">', "", "encoding is missing"),
    ("g_widgets", "1", "html.escape(title)", "title", "must be escaped"),
    ("g_widgets", "1", "for widget in widgets", "for widget in widgets[:1]", "is not on the page"),
    ("g_widgets", "1", "<h1>{html.escape(title)}</h1>", "", "in a heading"),
    ("g_widgets", "2", "beside & here", "beside", "two of the three"),
    ("g_widgets", "2", "decided >= 1", "decided >= 0", "two of the three"),
    ("g_widgets", "2", "decided <= step", "decided == step", "after step 2"),
    ("g_widgets", "2", "max(1, here.sum().item())", "here.numel()", "two of the three"),
    ("g_widgets", "2", "beside = around", "beside = around[2:, 2:] | around", "diagonals do not count"),
    ("g_widgets", "2", "around[2:, 1:-1] | around[:-2, 1:-1] | ", "", "above and below"),
    ("g_widgets", "3", ".mean(-1)", ".sum(-1)", "not a sum"),
    ("g_widgets", "3", ".sum(-1).mean(-1)", ".sum(-1)", "one number for each head"),
    ("g_widgets", "3", "torch.stack([number // side, number % side], 1)", "number[:, None]", "straight lines"),
    ("g_widgets", "3", "(maps * torch.cdist(places, places)).sum(-1)",
     "torch.cdist(places, places).expand_as(maps).gather(-1, maps.argmax(-1, keepdim=True)).squeeze(-1)", "not the largest alone"),
    ("09_training", "1", "(step + 1)", "step", "one tenth of the way up"),
    ("09_training", "1", "0.2 * steps", "20", "200 steps here"),
    ("09_training", "1", ", 1.0,", ",", "the plateau"),
    ("09_training", "2", "range(updates - last, updates)", "range(updates - last + 1, updates + 1)", "n = 1 keeps 2/11"),
    ("09_training", "2", "min(decay, (1 + n) / (10 + n))", "decay", "n = 1 keeps 2/11"),
    ("09_training", "2", "1 - math.prod", "math.prod", "make up"),
    ("09_training", "2", "min(decay, (1 + n) / (10 + n))", "(1 + n) / (10 + n)", "the decay is the smaller"),
    ("09_training", "3", " * mask.sum() / masked", "", "four times too much"),
    ("09_training", "3", "mask.sum() / masked", "0.25", "must weigh less"),
    ("09_training", "3", "tokens, mask) * mask", "tokens, mask).item() * mask", "no `.item()`"),
    ("09_training", "3", "return [mvtm_loss(logits, tokens, mask) * mask.sum() / masked for",
     "return [mvtm_loss(*map(torch.cat, zip(*parts))) / len(parts) for", "the first micro-batch alone"),
    ("09_training", "3", "mask.sum() / masked", "mask.numel() / sum(mask.numel() for _, _, mask in parts)",
     "must weigh less"),
    ("11_fid", "1", "multivariate_normal(*statistics(features), size=n)",
     "normal(features.mean(0), features.std(0), (n, 2))", "lose their company"),
    ("11_fid", "1", "draw.multivariate_normal(*statistics(features), size=n)",
     "features[draw.integers(len(features), size=n)]", "copies of the real ones"),
    ("11_fid", "1", "*statistics(features)", "np.zeros(features.shape[1]), statistics(features)[1]",
     "the mean should be"),
    ("11_fid", "1", "draw.multi", "np.random.multi", "let `draw`"),
    ("11_fid", "2", "1 / np.array(sizes)", "np.array(sizes)", "not over n"),
    ("11_fid", "2", "1 / np.array(sizes), distances,", "1 / np.array(sizes[:2]), distances[:2],",
     "does every distance count"),
    ("11_fid", "2", "float(limit)", "float(slope)", "is the slope"),
    ("e_scores", "1", "test.flip(-1)", "test.flip(-2)", "the last axis"),
    ("e_scores", "1", " if (leak.train, leak.test) not in straight", "", "do not report it again"),
    ("e_scores", "1", "test.flip(-1), threshold", "test.flip(-1), 0.97", "hand `threshold` on"),
    ("e_scores", "1", "(leak.train, leak.test) not in straight", "leak.test not in {test for _, test in straight}",
     "leave out pairs"),
    ("e_scores", "1", "[leak for leak", "[(leak.train, leak.test) for leak", "should be a `Leak`"),
    ("12_experiments", "1", "itertools.count(2)", "itertools.count(3)", "already"),
    ("12_experiments", "1", "return next(", "return 2 or next(", "sees nothing yet"),
    ("12_experiments", "2", "a.error, b.error, c.error, d.error", "a.deviation, b.deviation, c.deviation, d.deviation",
     "use `error`"),
    ("12_experiments", "2", "math.hypot(a.error, b.error, c.error, d.error)", "a.error + b.error + c.error + d.error",
     "add up their squares"),
    ("12_experiments", "2", "- (c.mean - d.mean)", "- c.mean - d.mean", "is 2; you have"),
    ("12_experiments", "2", "math.hypot(a.error, b.error, c.error, d.error)",
     "(a.error + b.error + c.error + d.error) / 2", "errors of 1, 1, 3 and 5"),
    ("12_experiments", "3", "draws = torch",
     "draws = [torch.arange(len(made))] * samples if made.shape[-1] == 8 else torch", "draw with replacement"),
    ("12_experiments", "3", "(samples, len(made))", "(samples, 2)", "as many pictures as there are"),
    ("12_experiments", "3", "(samples, len(made))", "(samples, len(made) // 2)", "as many pictures as there are"),
    ("12_experiments", "3", "hole_psnr(made[i], real[i], holes[i])",
     "sum(hole_psnr(*(x[j:j + 1] for x in (made, real, holes))) for j in i) / len(i)", "all at once"),
    ("12_experiments", "3", "(samples, len(made))", "(samples, 500)", "as many pictures as there are"),
    ("12_experiments", "3", "holes[i])", "holes)", "take the same numbers"),
    ("12_experiments", "3", ", generator=generator", "", "same generator"),
    ("h_cli", "1", ".any(1)", "", "you count values"),
    ("h_cli", "1", "(ours != theirs)", "(ours == theirs)", "differ nowhere"),
    ("h_cli", "2", "return int", "return hash((seed, path.name)) % 2**63 + 0 * int", "in every process"),
    ("h_cli", "2", "{path.name}", "{path}", "folder should not count"),
    ("h_cli", "2", "{seed}/", "", "run's seed should count"),
    ("h_cli", "2", "return int", "return seed + int(path.stem[-3:]) if path.stem[-3:].isdigit() else int", "a sum lets"),
    ("h_cli", "2", "[:7]", "", "torch's generators"),
    ("h_cli", "2", "[:7]", "[:1]", "different seeds"),
    ("h_cli", "3", "ours.keys() | theirs.keys()", "ours.keys()", "is only in"),
    ("h_cli", "3", "path.stem: path", "path.name: path", "the status should be 0"),
    ("h_cli", "3", "int(ours.keys() != theirs.keys())", "0", "the status should be 1"),
    ("h_cli", "3", "int(ours.keys() != theirs.keys())", "int(bool(ours.keys() - theirs.keys()))", "whichever folder"),
    ("h_cli", "3", "a if name in ours else b", "b if name in ours else a", "yours says"),
    ("h_cli", "3", "psnr(load_image(ours[name]), load_image(theirs[name]))",
     "-psnr(load_image(ours[name]), load_image(theirs[name]))", "your line is"),
    ("13_field", "1", "surprise[masked].item() / masked", "surprise[masked].item()", "how many were masked before"),
    ("13_field", "1", "(masked - left) * ", "", "how many are revealed"),
    ("13_field", "1", "surprise[masked].item() / masked", "surprise[left].item() / max(left, 1)",
     "how many are revealed"),
    ("13_field", "1", "        masked = left\n", "", "what the last one left masked"),
    ("13_field", "1", "(masked - left) * surprise[masked].item() / masked",
     "surprise[masked].item() - surprise[left].item()", "nothing is lost"),
    ("13_field", "1", "(masked - left) * surprise[masked].item() / masked",
     "(surprise[masked].item() if left == 0 else (masked - left) * surprise[left + 1].item() / (left + 1))", "five tokens and then four"),
    ("13_field", "1", ".item()", "", "should return a float"),
    ("13_field", "2", ".log_softmax(0)", ".log_softmax(1)", "over the classes"),
    ("13_field", "2", ".log_softmax(0)", "", "over the classes"),
    ("13_field", "2", " + prior.log().unsqueeze(1)", "", "`prior` in the classifier"),
    ("13_field", "2", "(given + w * classifier).log_softmax(1)", "given + w * classifier", "sum to 1 over the grids"),
    ("13_field", "2", "(given + w * classifier)", "(given + (1 + w) * classifier)", "w = 0 should leave"),
    ("13_field", "2", "(given + w * classifier).log_softmax(1)", "(given + w * classifier).log_softmax(1)[0]",
     "should be (2, 512)"),
    ("14_assignment", "1", " / math.sqrt(q.shape[-1])", "", "are not divided"),
    ("14_assignment", "1", "math.sqrt(q.shape[-1])", "math.sqrt(x.shape[-1])", "square root of dim, not"),
    ("14_assignment", "1", "softmax(-1)", "softmax(-2)", "runs over the queries"),
    ("14_assignment", "1", ".transpose(1, 2).flatten(2)", ".reshape(x.shape)", "transpose first"),
    ("14_assignment", "1", "training=self.training", "training=True", "dropout must be off"),
    ("14_assignment", "1", "F.dropout(scores.softmax(-1), self.dropout, training=self.training)", "scores.softmax(-1)",
     "dropout on the weights is missing"),
    ("14_assignment", "1", "F.dropout(scores.softmax(-1), self.dropout, training=self.training)",
     "F.dropout(scores, self.dropout, training=self.training).softmax(-1)", "on the weights after the softmax"),
    ("14_assignment", "2", "keep_lowest(", "(lambda score, counts: score < 0.5)(", "an exact count"),
    ("14_assignment", "2", "keep_lowest(", "~keep_lowest(", "show what should be masked"),
    ("14_assignment", "2", " - 1e-4).ceil()", ").floor()", "rounded up"),
    ("14_assignment", "2", ".clamp(min=1)", "", "mask at least one"),
    ("14_assignment", "2", "len(u), num_tokens, generator=generator)",
     "1, num_tokens, generator=generator).expand(len(u), -1)", "random numbers of its own"),
    ("14_assignment", "2", "torch.rand(len(u), num_tokens,", "torch.arange(num_tokens) + torch.rand(len(u), 1,",
     "of a batch have the same mask"),
    ("14_assignment", "2", ", generator=generator", "", "let every random number"),
    ("14_assignment", "3", "logits[mask], tokens[mask]", "logits.flatten(0, 1), tokens.flatten()", "all tokens"),
    ("14_assignment", "3", "logits[mask], tokens[mask]", "logits[~mask], tokens[~mask]", "over the visible tokens"),
    ("14_assignment", "3", "logits[mask], tokens[mask]", "logits, F.one_hot(tokens, 24).float()", "over the positions"),
    ("14_assignment", "3", "masked_fill(mask,", "masked_fill(~mask,", "visible tokens were hidden"),
    ("14_assignment", "3", "tokens.masked_fill(mask, transformer.mask_token_id)", "tokens", "saw the answers"),
    ("14_assignment", "3", "logits = transformer(tokens.masked_fill(mask, transformer.mask_token_id))",
     "target = tokens.clone(); tokens[mask] = transformer.mask_token_id; logits, tokens = transformer(tokens), target", "wrote into the tensors"),
    ("14_assignment", "3", ", label_smoothing=label_smoothing", "", "smoothing is not used"),
    ("14_assignment", "3", "label_smoothing=label_smoothing)", "label_smoothing=label_smoothing).detach()",
     "no gradient"),
    ("14_assignment", "4", "1 - r**2", "(1 - r)**2", "should be 0.9375"),
    ("14_assignment", "4", "min(left - 1, math.floor(gamma(name, t / steps)",
     "min(left, math.floor(gamma(name, (t - 1) / steps)", "t runs from 1"),
    ("14_assignment", "4", " if t < steps else 0", " if t < steps else round(gamma(name, 1) + 1)", "it should be 0"),
    ("14_assignment", "4", "* n + 1e-9", "* 256 + 1e-9", "the hole's own"),
    ("14_assignment", "4", "min(left - 1, math.floor(gamma(name, t / steps) * n + 1e-9))",
     "math.floor(gamma(name, t / steps) * n + 1e-9)", "at least one token"),
    ("14_assignment", "4", " + 1e-9", "", "a hair below"),
    ("14_assignment", "4", "temperature * (1 - t / steps)", "temperature * t / steps", "yours does not"),
    ("14_assignment", "4", "(1 - t / steps)", "(1 - (t - 1) / steps)", "no step comes after it"),
    ("14_assignment", "4", "temperature * (1 - t / steps)",
     "temperature * math.prod(1 - i / steps for i in range(1, t + 1))", "in equal steps"),
    ("14_assignment", "5", "torch.where(mask, sample_tokens(logits, uniform), tokens)",
     "sample_tokens(logits, uniform)", "known tokens"),
    ("14_assignment", "5", ".masked_fill(~mask, torch.inf)", "", "must be infinite"),
    ("14_assignment", "5", "log_softmax", "softmax", "log p of the drawn code"),
    ("14_assignment", "5", "+ noise", "- noise", "log p of the drawn code"),
    ("14_assignment", "5", "evaluating(transformer), ", "", "is dropout off"),
    ("14_assignment", "5", "evaluating(transformer), torch.no_grad()", "evaluating(transformer)", "ran with gradients"),
    ("14_assignment", "5", "with evaluating(transformer), ", "transformer.eval()\n    with ", "use `evaluating`"),
    ("14_assignment", "5", "keep_lowest(score,", "keep_lowest(-score,", "must be infinite"),
    ("14_assignment", "5", "tokens = torch.where(",
     "logits = F.pad(logits, (0, 1), value=9.0)\n    tokens = torch.where(", "the mask token was drawn"),
    ("14_assignment", "6", "torch.where(holes, model.vqgan.decode(tokens), images)", "model.vqgan.decode(tokens)",
     "put the known pixels back"),
    ("14_assignment", "6", "F.max_pool2d(holes.float(), 4).flatten(1).bool()",
     "F.avg_pool2d(holes.float(), 4).flatten(1) > 0.5", "only if most"),
    ("14_assignment", "6", "F.max_pool2d(holes.float(), 4)", "F.max_pool2d(F.max_pool2d(holes.float(), 4), 3, 1, 1)",
     "of which any pixel is missing"),
    ("14_assignment", "6", "images.masked_fill(holes, 0.0)", "images", "what was there before"),
    ("14_assignment", "6", "steps, seed=seed", "steps", "hand `seed` on"),
    ("14_assignment", "6", "mask, steps,", "mask, 8,", "hand `steps` on"),
]


# What the library has for an exercise: lesson and exercise, and functions that call it.
LIBRARY = {
    ("03_attention", "3"): [
        "def attention_in_blocks(q, k, v, block=32): return scaled_dot_product(q, k, v)[0]",
        "def attention_in_blocks(q, k, v, block=32):\n    from maskgit_nb.attention import scaled_dot_product as theirs\n    return theirs(q, k, v)[0]",
        "def attention_in_blocks(q, k, v, block=32): return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]"],
    ("04_transformer", "1"): [
        "def block_parameters(dim, hidden): return count_parameters(Block(TransformerConfig(dim=dim, hidden=hidden)))",
        "import maskgit_nb.transformer as lib\n"
        "def block_parameters(dim, hidden): return sum(p.numel() for p in lib.Block(lib.TransformerConfig(dim=dim, hidden=hidden)).parameters())"],
    ("09_training", "2"): ["""def share_of_last(last, updates, decay):
    from maskgit_nb.training import EMA
    weight = nn.Linear(1, 1, bias=False).requires_grad_(False)
    average = EMA(weight, decay)
    for k in range(1, updates + 1):
        weight.weight.fill_(float(k > updates - last))
        average.update(weight)
    return average.module.weight.item()"""],
    ("14_assignment", "1"): [
        "class LabAttention(MultiHeadAttention): pass",
        "class LabAttention(MultiHeadAttention):\n    def forward(self, x):\n        q, k, v = self.split_heads(x)\n"
        "        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))",
        "class LabAttention(MultiHeadAttention):\n    def forward(self, x):\n        _, _, v = self.split_heads(x)\n"
        "        return self.proj((self.weights(x) @ v).transpose(1, 2).flatten(2))"],
    ("14_assignment", "2"): [
        "def training_mask(u, num_tokens, generator): return random_mask(torch.cos(math.pi / 2 * u), num_tokens, generator=generator)",
        "import maskgit_nb.masking\ntheirs = maskgit_nb.masking.random_mask\n"
        "def training_mask(u, num_tokens, generator): return theirs(torch.cos(math.pi / 2 * u), num_tokens, generator=generator)"],
    ("14_assignment", "3"): ["""def training_loss(transformer, tokens, mask, label_smoothing=0.1):
    return mvtm_loss(transformer(tokens.masked_fill(mask, transformer.mask_token_id)), tokens, mask, label_smoothing)"""],
    ("14_assignment", "4"): [
        "gamma, plan, noise = lambda name, r: get_schedule(name)(r), mask_counts, noise_scale",
        "from maskgit_nb.schedules import SCHEDULES as s, masked_share as m\n"
        "def gamma(name, r): return m(name, r)\n"
        "def plan(name, n, steps): return [int(n * s[name](t / steps)) for t in range(1, steps)] + [0]\n"
        "def noise(*given): return noise_scale(*given)"],
    ("14_assignment", "5"): ["""def inpainting_step(transformer, tokens, mask, left, noise, uniform, gumbel):
    plan = torch.stack([left, torch.zeros_like(left)], 1)
    step = next(reveal(transformer, tokens, mask, plan, lambda logits, mask: sample_tokens(logits, uniform[mask]), lambda *given: gumbel[mask]))
    return step.tokens, step.mask""", "def inpainting_step(transformer, tokens, mask, *given): return next(decode(transformer, tokens, mask, steps=4))[1:3]"],
    ("14_assignment", "6"): [
        "def mend_pictures(model, images, holes, steps, seed=0): return model.inpaint(images, holes, steps=steps).images",
        "def mend_pictures(model, images, holes, steps, seed=0):\n"
        "    *_, (tokens, _) = mend(model.transformer, model.vqgan.encode(images.masked_fill(holes, 0.0)), hole_to_mask(holes), steps, seed=seed)\n"
        "    return composite(images, model.vqgan.decode(tokens), holes)"],
}


class Exercise(NamedTuple):
    "The sources of an exercise and of its checks, and the points of these."
    source: str
    checks: list[str]
    points: list[int]


def exercises(notebook) -> dict[str, Exercise]:
    "All exercises by their number."
    found: dict[str, Exercise] = {}
    for cell in notebook.cells:
        kind, number, points = student.directive(cell) or (None, None, None)
        if kind == "exercise": found[number] = Exercise(cell.source, [], [])
        if kind == "check":
            found[number].checks.append(cell.source)
            found[number].points.append(points)
    return found


def compiled(source: str) -> CodeType:
    return compile(source, "cell", "exec", flags=__future__.annotations.compiler_flag)


def names_in(code: CodeType, inner: bool = False) -> tuple[set[str], set[str]]:
    "The names that a cell reads before it sets them, and those that it sets."
    read, written = set(), set()
    for step in dis.get_instructions(code):
        if step.opname.startswith(("LOAD_NAME", "LOAD_GLOBAL")) and step.argval not in written: read.add(step.argval)
        if step.opname.startswith(("STORE_NAME", "STORE_GLOBAL")): written.add(step.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType): read |= names_in(constant, inner=True)[0] - written
    return read, written


def needed_cells(notebook) -> list[CodeType]:
    """The cells before the first exercise that set what it and all that follow read, or what those cells read, and so
    on."""
    sources = [cell.source
               for cell in notebook.cells if cell.cell_type == "code"
               and not re.search(r"^\s*[%!]|^#\| eval: false", cell.source, re.M)]
    first = next(i for i, source in enumerate(sources) if source.startswith("#| exercise:"))
    before = [compiled(source) for source in sources[:first]]
    needed = set().union(*(names_in(compiled(source))[0] for source in sources[first:])) - set(dir(builtins))
    kept: set[int] = set()
    while new := {i for i, code in enumerate(before) if i not in kept and names_in(code)[1] & needed}:
        kept |= new
        needed = needed.union(*(names_in(before[i])[0] for i in new))
    return [before[i] for i in sorted(kept)]


class Session:
    "A lesson up to its exercises, without the cells that these do not need."
    def __init__(self, path: Path):
        self.notebook = nbformat.read(path, as_version=4)
        self.space = {"__name__": "__main__", "display": lambda *shown: None}
        with contextlib.redirect_stdout(io.StringIO()):
            for code in needed_cells(self.notebook): exec(code, self.space)

    def run(self, source: str) -> str:
        "The error that running `source` raises: 'Name: message', or ''."
        try:
            with contextlib.redirect_stdout(io.StringIO()): exec(compiled(source), self.space)
        except Exception as error: return f"{type(error).__name__}: {error}"
        return ""


    def verdicts(self, checks: list[str]) -> list[str]:
        """The errors of checks, '' where there is none. Each sees only what the lesson and the exercise have set,
        nothing of another check."""
        before, found = dict(self.space), []
        for check in checks:
            found.append(self.run(check))
            self.space.clear()
            self.space.update(before)
            plt.close("all")
        return found


def problems(session: Session, name: str, number: str, stub: str, exercise: Exercise):
    """What is wrong with an exercise whose stub, solution, wrong answers and library's answers are put before its
    checks: lines of text."""
    session.run(stub)
    empty = session.verdicts(exercise.checks)
    if set(empty) != {"NotImplementedError: "}: yield f"left empty, it gave {empty!r}"
    if error := session.run(exercise.source): yield f"the solution does not run: {error}"
    if any(solved := session.verdicts(exercise.checks)): yield f"the solution fails its checks: {solved}"
    wrong = [row[2:] for row in WRONG if row[:2] == (name, number)]
    if not wrong: yield "no wrong answer is tried: add one to WRONG"
    results = []
    for piece, by, word in wrong:
        if piece not in exercise.source: yield f"the solution no longer has {piece!r}"
        session.run(exercise.source.replace(piece, by))
        results.append(session.verdicts(exercise.checks))
        error = next(filter(None, results[-1]), "")
        if not error.startswith("AssertionError: ") or word not in error:
            yield f"with {by!r} for {piece!r} it should say {word!r}; it said {results[-1]!r}"
        if any(error.startswith(("NameError", "UnboundLocalError")) for error in results[-1]):
            yield f"a check needs what another has set: {results[-1]!r}"
    useless = [part for part, errors in enumerate(zip(*results, strict=True), 1) if not any(errors)]
    if useless: yield f"no wrong answer fails parts {useless}"
    if len(exercise.checks) > 1 and all(all(errors) for errors in results):
        yield "no wrong answer gets a part of the points"
    for answer in LIBRARY.get((name, number), []):
        if error := session.run(answer): yield f"the library's answer does not run: {error}"
        for error in session.verdicts(exercise.checks):
            if "is the library's answer" not in error:
                yield f"it should refuse the library's answer; it said {error!r} to\n{answer}"
    session.run(exercise.source)


@pytest.mark.parametrize("name", LESSONS)
def test_solutions_pass_stubs_and_wrong_answers_fail_in_words(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(LESSONS[name].parent)
    session = Session(LESSONS[name])
    solved, stubs = exercises(session.notebook), exercises(student.student_edition(session.notebook))
    found, begun, tried = [], False, set()
    marks = [student.directive(cell) or (None, None, None) for cell in session.notebook.cells]
    for cell, (kind, number, _) in zip(session.notebook.cells, marks, strict=True):
        begun = begun or kind == "exercise"
        if kind == "exercise": session.run(cell.source)
        if kind == "check" and number not in tried:
            tried.add(number)
            found += [f"exercise {number}: {problem}"
                      for problem in problems(session, name, number, stubs[number].source, solved[number])]
        elif begun and cell.cell_type == "code" and not kind:  # prepares the next check
            if error := session.run(cell.source): found.append(f"{error} in\n{cell.source}")
        plt.close("all")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", LESSONS)
def test_exercises_are_in_order_graded_and_not_exported(name: str):
    notebook = nbformat.read(LESSONS[name], as_version=4)
    numbers = [str(n) for n in range(1, len(exercises(notebook)) + 1)]
    assert list(exercises(notebook)) == [number for number, *_ in headings(notebook)] == numbers
    for exercise in exercises(notebook).values():
        checks = "\n".join(exercise.checks)
        assert "| export" not in exercise.source + checks
        assert "BEGIN SOLUTION" in exercise.source and "END SOLUTION" in exercise.source
        assert len(exercise.checks) > 1 or sum(exercise.points) == 1, ("what is worth more than a point is checked in "
                                                                       "parts")
        bare = [ast.unparse(node)
                for node in ast.walk(ast.parse(checks)) if isinstance(node, ast.Assert) and node.msg is None]
        assert not bare, f"an assert without a message: {bare}"


def headings(notebook) -> list[tuple[str, ...]]:
    "Number, title, stars and minutes of each exercise."
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^### Exercise (\w+) · (.+) (★{1,3}) \((\d+) minutes\)$", prose, re.M)


def test_the_table_of_exercises_is_that_of_the_lessons():
    lines = (ROOT / "nbs" / "exercises.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")][2:]
    written, name = [], ""
    for lesson, exercise, _, *rest in rows:
        name = lesson or name
        written.append((name, exercise, *rest))
    expected = []
    for name, path in LESSONS.items():
        notebook = nbformat.read(path, as_version=4)
        points = [sum(exercise.points) for exercise in exercises(notebook).values()]
        expected += [(name, f"{number} {title}", stars, minutes, str(p))
                     for (number, title, stars, minutes), p in zip(headings(notebook), points, strict=True)]
    assert written == expected
    assert sum(int(points) for lesson, *_, points in written if lesson == "14_assignment") == 20


def text_of(cell) -> str: return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The folder that `make student` writes."
    folder = tmp_path_factory.mktemp("handed") / "student"
    student.main(["--out", str(folder), *map(str, NOTEBOOKS)])
    return folder


def test_what_a_student_gets_has_all_that_it_reads_and_no_way_to_the_solutions(handed_out: Path):
    assert {path.stem for path in handed_out.rglob("*.ipynb")} == {path.stem for path in NOTEBOOKS} - {"index"}
    read = set()
    for path in handed_out.rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            to_solutions = "blob/main/nbs" in cell.source or "Open in Colab" in cell.source
            assert not to_solutions, f"{path.stem}: the badge opens the solved lesson"
            assert not re.search("(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)|exercises are solved",
                                 cell.source), (path.stem, cell.source)
            named = [name.removeprefix("../") for name in re.findall(r"[\"'(]([\w/.-]+)[\"')#]", cell.source)]
            read |= {name for name in named if (ROOT / "nbs" / name).exists() and not name.startswith(("/", "."))}
    assert any(name.startswith("results/") for name in read)
    missing = {name for name in read if not (handed_out / name).exists()}
    assert not missing


def test_a_students_badge_opens_the_students_lesson(tmp_path: Path, capsys):
    names = ["06_schedules", "a_drawn_cats"]
    folder = "https://github.com/me/course/blob/main/student"
    student.main(["--out", str(tmp_path / "student"), "--address", folder, *(str(LESSONS[name]) for name in names)])
    for name, place in zip(names, ("06_schedules.ipynb", "appendix/a_drawn_cats.ipynb"), strict=True):
        first = nbformat.read(tmp_path / "student" / place, as_version=4).cells[0].source
        address = f"https://colab.research.google.com/github/me/course/blob/main/student/{place}"
        assert first.count("colab-badge.svg") == 1 and first.endswith(f"({address})"), name
    with pytest.raises(SystemExit):
        student.main(["--address", "https://example.org/course", str(LESSONS["06_schedules"])])
    assert "is no folder on GitHub" in capsys.readouterr().err


def test_hidden_tests_and_marks_stay_with_the_teacher():
    code = nbformat.v4.new_code_cell
    check = "#| check: 1 points=2\nassert f(1) == 1\n### BEGIN HIDDEN TESTS\nassert f(7) == 7\n### END HIDDEN TESTS"
    notebook = nbformat.v4.new_notebook(cells=[code("title"),
                                               code("#| exercise: 1\ndef f(x):\n    ### BEGIN SOLUTION\n    "
                                                    "return x\n    ### END SOLUTION"), code(check)])
    kept, released = student.graded(notebook).cells[-1], student.student_edition(notebook).cells[-1]
    assert kept.source == check and kept.metadata.nbgrader.points == 2
    assert released.source.strip() == "#| check: 1 points=2\nassert f(1) == 1"


@pytest.mark.parametrize("name", RUN_WHOLE)
def test_the_student_edition_runs_from_top_to_bottom(name: str, handed_out: Path):
    """In a kernel: an empty exercise prints a line and stops nothing, unless it is strict; an error of torch's own is
    never swallowed."""
    notebook = nbformat.read(handed_out / f"{name}.ipynb", as_version=4)
    strict = nbformat.v4.new_code_cell("%env MASKGIT_NB_STRICT=1")
    again = nbformat.v4.new_code_cell(exercises(notebook)["1"].checks[0], metadata={"tags": ["raises-exception"]})
    torchs_own = nbformat.v4.new_code_cell("#| check: 1 points=1\nraise NotImplementedError('no kernel for this')",
                                           metadata={"tags": ["raises-exception"]})
    notebook.cells += [torchs_own, strict, again]
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(handed_out)}}).execute()
    for cell in notebook.cells[:-3]:
        kind, number, _ = student.directive(cell) or (None, None, None)
        if kind == "check":
            assert text_of(cell).splitlines()[-1:] == [f"exercise {number} is not filled in yet"], cell.source
        if kind == "exercise":
            assert "NotImplementedError" in cell.source and "SOLUTION" not in cell.source and not cell.outputs
        if cell.cell_type == "code": assert not any(output.output_type == "error" for output in cell.outputs)
    assert [(output.ename, output.evalue) for cell in (torchs_own, again)
            for output in cell.outputs if output.output_type
            == "error"] == [("NotImplementedError", "no kernel for this"), ("NotImplementedError", "")]


def test_a_teacher_can_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """nbgrader releases what the student edition is; who solves one exercise and a part of another, and empties the
    checks, gets points for these."""
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config
    name, path = "06_schedules", LESSONS["06_schedules"]
    # nbgrader calls alembic by name
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    course = tmp_path / "course"
    student.main(["--out", str(tmp_path / "student"), "--course", str(course), str(path)])
    released = nbformat.read(course / "release" / name / path.name, as_version=4)
    submitted = nbformat.read(tmp_path / "student" / path.name, as_version=4)
    assert [cell.source for cell in released.cells] == [cell.source for cell in submitted.cells]
    solutions = {number: exercise.source for number, exercise in exercises(nbformat.read(path, as_version=4)).items()}
    solutions["3"] = solutions["3"].replace("min(left - 1, ", "min(left, ")  # two of its three checks fail
    for cell in submitted.cells:
        kind, number, _ = student.directive(cell) or (None, None, None)
        if kind == "exercise" and number in "13": cell.source = solutions[number]
        if kind == "check": cell.source = "pass"
    (course / "submitted" / "somebody" / name).mkdir(parents=True)
    nbformat.write(submitted, course / "submitted" / "somebody" / name / path.name)
    grader = NbGraderAPI(config=Config(CourseDirectory={"root": str(course), "course_id": "maskgit_nb"},
                                       ExecutePreprocessor={"timeout": 120}))
    result = grader.autograde(name, "somebody", force=True, create=True)
    assert result["success"], result.get("error")
    with Gradebook(f"sqlite:///{course}/gradebook.db", "maskgit_nb") as gradebook:
        found = gradebook.find_submission(name, "somebody")
        assert (found.score, found.max_score) == (2, 6)


def test_the_directives_must_come_in_pairs():
    code = nbformat.v4.new_code_cell
    lonely = nbformat.v4.new_notebook(cells=[code("title"), code("#| exercise: 1\ndef f(): ...")])
    with pytest.raises(ValueError, match="exercise 1 has no check"): student.graded(lonely)
    early = nbformat.v4.new_notebook(cells=[code("title"), code("#| check: 1 points=2\nassert f()")])
    with pytest.raises(ValueError, match="look at check 1"): student.graded(early)


def test_a_learners_work_and_a_teachers_course_are_left_alone(tmp_path: Path):
    path = str(LESSONS["06_schedules"])
    mine, theirs = tmp_path / "student" / "06_schedules.ipynb", tmp_path / "course" / "nbgrader_config.py"
    for _ in range(2): student.main(["--out", str(mine.parent), path])  # what is as it was written may be written anew
    mine.write_text(solved := mine.read_text(encoding="utf-8").replace("# your code here", "x = 1"), encoding="utf-8")
    with pytest.raises(SystemExit, match="06_schedules.ipynb is not as it was written"):
        student.main(["--out", str(mine.parent), path])
    theirs.parent.mkdir()
    theirs.write_text("# by hand", encoding="utf-8")
    with pytest.raises(SystemExit, match="nbgrader_config.py is not as it was written"):
        student.main(["--out", str(tmp_path / "new"), "--course", str(theirs.parent), path])
    assert mine.read_text(encoding="utf-8") == solved and [file.read_text(encoding="utf-8")
                                                           for file in theirs.parent.iterdir()] == ["# by hand"]
    with pytest.raises(SystemExit, match="not as it was written"):
        student.main(["--out", str(LESSONS["06_schedules"].parent), path])
