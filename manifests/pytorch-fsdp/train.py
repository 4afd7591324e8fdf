#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Train a small transformer whose parameters, gradients and optimizer states are sharded over GPUs (FSDP2).

    torchrun --nproc_per_node 2 train.py --mixed-precision --explicit-prefetch

It learns to continue sequences that count upwards, so the loss must fall from ln(vocabulary) towards zero.
The places to look at for a model of your own are `shard` and `prefetch`. Without GPUs it runs on CPUs (Gloo).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn import functional


class Block(nn.Module):
    """One transformer block: causal attention, then a feed-forward network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projected = self.attention_in(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.feed(self.feed_norm(x))


class Transformer(nn.Module):
    """A decoder: token and position embeddings, blocks, and scores for the next token."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.scores = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))


def shard(model: Transformer, mixed_precision: bool) -> None:
    """Shard from the inside out: each block is gathered and freed on its own, the rest with the root."""
    policy = MixedPrecisionPolicy()
    if mixed_precision:
        # Parameters travel and compute in 16 bits; gradients are summed in 32, where small ones aren't lost.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def prefetch(blocks: list[FSDPModule], ahead: int = 2) -> None:
    """Gather the next blocks' parameters while this one computes, forwards and backwards.

    FSDP does this for one block by itself; more hides slower networks, and costs memory.
    """
    for i, block in enumerate(blocks):
        block.set_modules_to_forward_prefetch(blocks[i + 1 : i + 1 + ahead])
        block.set_modules_to_backward_prefetch(blocks[max(0, i - ahead) : i][::-1])


def initialise(model: Transformer, device: torch.device) -> None:
    """Make the shards on their devices: the whole model never has to fit on one."""
    model.to_empty(device=device)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def counting(batch: int, length: int, vocabulary: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sequences that count upwards from a random number, and what follows each number."""
    start = torch.randint(vocabulary, (batch, 1), device=device)
    sequence = (start + torch.arange(length + 1, device=device)) % vocabulary
    return sequence[:, :-1], sequence[:, 1:]


def asked_to_stop(file: Path, device: torch.device) -> bool:
    """Whether `file` exists, for all ranks alike: one that left alone would have the others wait for ever.

    It is the way to end a job early. One that is killed within a collective can take its node offline.
    """
    seen = torch.tensor(float(file.exists()), device=device)
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return bool(seen.item())


def train(options: argparse.Namespace, device: torch.device) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Transformer(options.vocabulary, options.length, options.width, options.heads, options.layers)
    shard(model, options.mixed_precision)
    initialise(model, device)
    if options.explicit_prefetch:
        prefetch([block for block in model.blocks if isinstance(block, FSDPModule)])
    say(str(model))

    torch.manual_seed(dist.get_rank())  # each rank has data of its own
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    for step in range(1, options.steps + 1):
        if asked_to_stop(Path(options.stop_file), device):
            say(f"{options.stop_file} exists: stopping")
            break
        if options.explicit_prefetch:
            model.unshard()  # starts gathering the root's parameters before they are asked for
        inputs, targets = counting(options.batch, options.length, options.vocabulary, device)
        loss = functional.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % options.report == 0 or step == options.steps:
            dist.all_reduce(mean := loss.detach() / dist.get_world_size())
            say(f"step {step}: loss {mean.item():.4f}")


def say(text: str) -> None:
    if dist.get_rank() == 0:
        print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small transformer with FSDP2.")
    parser.add_argument("--mixed-precision", action="store_true", help="compute in bfloat16")
    parser.add_argument("--explicit-prefetch", action="store_true", help="gather two blocks ahead")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")
    parser.add_argument("--vocabulary", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="sequences of a rank in a step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--report", type=int, default=20, help="steps between two lines of output")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--stop-file", default="stop", help="training ends when this file appears")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    try:
        train(options, device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
