"""Train the reference model that ships in ``h2o_gate_plugin/models/reference``.

A Llama-style decoder on the text of CPython's standard library (PSF licence), read from the interpreter that
runs this script. Part of the windows carry planted recall in the form of code: an assignment ``QXZ = 417``
early, ``assert QXZ == 417`` later, some pairs asked several times, and copied passages. Without them a model of this
size hardly uses its distant context, and nothing about eviction could be shown on it.

Needs the extra ``train`` (torch). Same interpreter version, seed and thread count give the same data and the same
weights up to float rounding::

    python tools/train_reference_model.py --out build/reference --steps 1400 --stop-after 900
    python tools/train_reference_model.py --out build/reference --steps 1060 --resume

The second line goes on from the weights in the folder on the schedule of 1,060 steps, the optimizers starting anew. The shipped
model was made by these two lines.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

END_OF_TEXT = "<|endoftext|>"
HELD_OUT_ONE_IN = 40
STAGES = ((0.30, 256), (0.33, 512), (0.25, 1024), (0.12, 2048))  # share of the steps, sequence length in tokens
TOKENS_PER_STEP = 8192
PLANTED_SHARE = 0.4
ANSWER_WEIGHT, FRAME_WEIGHT = 6.0, 0.3

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "vocab_size": 4096,
    "bos_token_id": None,
    "eos_token_id": 0,
    "torch_dtype": "float16",
}


def read_corpus() -> tuple[list[str], list[tuple[str, str]], str]:
    """Training texts, held-out (name, text) pairs and the sha256 over both, in sorted file order."""
    root = Path(sysconfig.get_path("stdlib"))
    train: list[str] = []
    held_out: list[tuple[str, str]] = []
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith(("site-packages/", "encodings/", "lib2to3/tests/data/", "config-")):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) < 200 or max(map(len, text.splitlines())) > 2000:
            continue
        digest.update(name.encode() + b"\0" + text.encode())
        if int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0:
            held_out.append((name, text))
        else:
            train.append(text)
    return train, held_out, digest.hexdigest()


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE; digits stay single tokens so that a planted answer is always three predictions."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=CONFIG["vocab_size"],
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


def plant(rng: random.Random, text: str, n_tokens: int) -> tuple[str, list[tuple[int, int, float]]]:
    """Insert pairs, questions and a copied passage between lines; return text and weighted character spans."""
    lines = [(line, 1.0, None) for line in text.splitlines()]
    n_lines = max(4, len(lines))
    inserts: list[tuple[float, str, str | None]] = []
    names: set[str] = set()
    for _ in range(rng.randint(1, max(2, n_tokens // 96))):
        name = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(3))
        if name in names:
            continue
        names.add(name)
        value = str(rng.randint(100, 999))
        start = rng.uniform(0, 0.6)
        inserts.append((start, f"{name} = {value}", None))
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
            inserts.append((rng.uniform(start, 1.0), f"assert {name} == {value}", value))
    placed = [(rank * n_lines, line, answer) for rank, line, answer in inserts]
    if rng.random() < 0.25 and len(lines) > 30:
        at = rng.randrange(0, len(lines) // 2)
        target = rng.randrange(at + 10, len(lines))
        for offset, (line, _, _) in enumerate(lines[at : at + 8]):
            placed.append((target + offset * 1e-3, line, ""))
    placed.sort(key=lambda item: item[0])
    out: list[str] = []
    spans: list[tuple[int, int, float]] = []
    position = 0

    def add(line: str, answer: str | None, planted: bool) -> None:
        nonlocal position
        end = position + len(line)
        if planted and answer != "":
            spans.append((position, end, FRAME_WEIGHT))
        if answer:
            spans.append((end - len(answer), end, ANSWER_WEIGHT))
        out.append(line)
        position = end + 1

    cursor = 0
    for index, (line, _, _) in enumerate(lines):
        while cursor < len(placed) and placed[cursor][0] <= index:
            add(placed[cursor][1], placed[cursor][2], True)
            cursor += 1
        add(line, None, False)
    for item in placed[cursor:]:
        add(item[1], item[2], True)
    return "\n".join(out), spans


class Windows:
    """Batches of ids [batch, n + 1] and loss weights [batch, n] from plain and planted windows."""

    def __init__(self, texts: list[str], tokenizer: Tokenizer, seed: int) -> None:
        self.rng = random.Random(seed)
        self.tokenizer = tokenizer
        order = list(texts)
        self.rng.shuffle(order)
        self.text = f"\n{END_OF_TEXT}\n".join(order)
        ids: list[np.ndarray] = []
        for chunk in range(0, len(order), 64):
            for encoding in tokenizer.encode_batch([t + "\n" + END_OF_TEXT + "\n" for t in order[chunk : chunk + 64]]):
                ids.append(np.asarray(encoding.ids, dtype=np.uint16))
        self.ids = np.concatenate(ids)

    def batch(self, n_rows: int, n_tokens: int, planted_share: float) -> tuple[Tensor, Tensor]:
        ids = np.zeros((n_rows, n_tokens + 1), dtype=np.int64)
        weights = np.ones((n_rows, n_tokens), dtype=np.float32)
        for row in range(n_rows):
            if self.rng.random() >= planted_share:
                start = self.rng.randrange(0, len(self.ids) - n_tokens - 1)
                ids[row] = self.ids[start : start + n_tokens + 1]
            else:
                ids[row], weights[row] = self.planted(n_tokens)
        return torch.from_numpy(ids), torch.from_numpy(weights)

    def planted(self, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        while True:
            # 2.2 characters a token keeps most of the planted lines inside the window after truncation
            n_chars = int(n_tokens * self.rng.uniform(2.2, 3.2))
            start = self.rng.randrange(0, len(self.text) - 5 * n_tokens)
            head, tail = self.text[start : start + n_chars], self.text[start + n_chars : start + 6 * n_tokens]
            text, spans = plant(self.rng, head, n_tokens)
            encoding = self.tokenizer.encode(text + tail)
            if len(encoding.ids) <= n_tokens:
                continue
            weight_of = np.ones(len(text) + len(tail) + 1, dtype=np.float32)
            for first, last, weight in spans:
                weight_of[first:last] = weight
            ids = np.asarray(encoding.ids[: n_tokens + 1])
            starts = np.asarray([end - 1 for _, end in encoding.offsets[: n_tokens + 1]])
            return ids, weight_of[starts[1:]]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d, h, g, k = (CONFIG[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
        self.n_head, self.n_kv_head, self.head_dim = h, g, k
        self.q_proj = nn.Linear(d, h * k, bias=False)
        self.k_proj = nn.Linear(d, g * k, bias=False)
        self.v_proj = nn.Linear(d, g * k, bias=False)
        self.o_proj = nn.Linear(h * k, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # [b, n, d] -> [b, n, d]
        b, n, _ = x.shape
        q = self.q_proj(x).view(b, n, self.n_head, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, n, self.n_kv_head, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, n, self.n_kv_head, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(b, n, -1))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        d, m = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(d, m, bias=False)
        self.up_proj = nn.Linear(d, m, bias=False)
        self.down_proj = nn.Linear(m, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(CONFIG["hidden_size"], eps=CONFIG["rms_norm_eps"])
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(CONFIG["hidden_size"], eps=CONFIG["rms_norm_eps"])
        self.mlp = Mlp()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Parameter names are those of Hugging Face's LlamaModel, so that state_dict() is the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        self.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.norm = nn.RMSNorm(CONFIG["hidden_size"], eps=CONFIG["rms_norm_eps"])
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                scale = 0.02 / math.sqrt(2 * len(self.layers)) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                nn.init.normal_(parameter, std=scale)
        half = torch.arange(0, CONFIG["head_dim"], 2) / CONFIG["head_dim"]
        angles = torch.outer(torch.arange(CONFIG["max_position_embeddings"]), CONFIG["rope_theta"] ** -half)
        self.register_buffer("cos", torch.cat((angles, angles), dim=1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), dim=1).sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:  # [b, n] -> [b, n, vocab]
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos.to(x.dtype), sin.to(x.dtype))
        return F.linear(self.norm(x), self.embed_tokens.weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def losses(model: Llama, ids: Tensor) -> Tensor:  # [b, n + 1] -> [b, n] nats
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids[:, :-1])
    flat = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return flat.view(ids.shape[0], -1)


@torch.no_grad()
def evaluate(model: Llama, held_out: Windows) -> dict[str, float]:
    """Held-out loss in nats per token, and greedy accuracy on planted answer tokens, per sequence length."""
    model.eval()
    result: dict[str, float] = {}
    for n_tokens in (512, 1024, 2048):
        held_out.rng.seed(7)
        ids, _ = held_out.batch(8192 // n_tokens, n_tokens, 0.0)
        result[f"loss_{n_tokens}"] = losses(model, ids).mean().item()
        held_out.rng.seed(8)
        ids, weights = held_out.batch(8192 // n_tokens, n_tokens, 1.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hit = model(ids[:, :-1]).argmax(-1) == ids[:, 1:]
        result[f"recall_{n_tokens}"] = hit[weights == ANSWER_WEIGHT].float().mean().item()
    model.train()
    return result


def save(model: Llama, tokenizer: Tokenizer, folder: Path, report: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def restore(model: Llama, folder: Path) -> int:
    """Load what `save` wrote; return the number of steps behind it."""
    state = {name.removeprefix("model."): value.float() for name, value in load_file(str(folder / "model.safetensors")).items()}
    model.load_state_dict(state)
    return int(json.loads((folder / "training.json").read_text(encoding="utf-8"))["steps"])


def learning_rate(step: int, n_steps: int, first: int) -> float:
    """Share of the peak rate: 60 steps of warm-up (20 after a resume), then constant, then linear decay over the last 35 %."""
    decay_from = 0.65 * n_steps
    return min((step - first + 1) / (20 if first else 60), 1.0) * (
        1.0 if step < decay_from else max(0.02, (n_steps - step) / (n_steps - decay_from))
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json, model.safetensors, tokenizer.json")
    parser.add_argument("--steps", type=int, default=1400, help="length of the schedule")
    parser.add_argument("--stop-after", type=int, help="end after this many steps of it")
    parser.add_argument("--resume", action="store_true", help="go on from the weights in --out")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=200)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    train_texts, held_out_texts, corpus_sha256 = read_corpus()
    tokenizer = train_tokenizer(train_texts)
    windows = Windows(train_texts, tokenizer, args.seed)
    held_out = Windows([text for _, text in held_out_texts], tokenizer, args.seed)
    model = Llama()
    first = restore(model, args.out) if args.resume else 0
    if first:
        windows.rng.seed(args.seed + first)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(windows.ids)} training tokens, {len(held_out.ids)} held out, {n_parameters} parameters", flush=True)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and not name.startswith("embed")]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or name.startswith("embed")]
    peaks = (2.5e-3, 2.5e-3)
    optimizers = (
        torch.optim.Muon(matrices, lr=peaks[0], weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=peaks[1], betas=(0.9, 0.95), weight_decay=0.01),
    )
    started = time.time()
    bounds = np.cumsum([share for share, _ in STAGES]) * args.steps
    report: dict[str, object] = {}
    last = min(args.steps, args.stop_after or args.steps)
    for step in range(first, last):
        n_tokens = next((n for bound, (_, n) in zip(bounds, STAGES, strict=True) if step < bound), STAGES[-1][1])
        ids, weights = windows.batch(TOKENS_PER_STEP // n_tokens, n_tokens, PLANTED_SHARE)
        loss = (losses(model, ids) * weights).sum() / weights.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * learning_rate(step, args.steps, first)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 20 == 0:
            print(f"step {step} seq {n_tokens} loss {loss.item():.3f} elapsed_s {time.time() - started:.0f}", flush=True)
        if (step + 1) % args.save_every == 0 or step + 1 == last:
            report = {
                "steps": step + 1,
                "planned_steps": args.steps,
                "seed": args.seed,
                "tokens": (step + 1) * TOKENS_PER_STEP,
                "parameters": n_parameters,
                "corpus_sha256": corpus_sha256,
                "python": sys.version.split()[0],
                "torch": torch.__version__,
                "elapsed_s": round(time.time() - started),
                **evaluate(model, held_out),
                "held_out_files": [name for name, _ in held_out_texts],
            }
            save(model, tokenizer, args.out, report)
            print({key: value for key, value in report.items() if key != "held_out_files"}, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
