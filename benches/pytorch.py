#!/usr/bin/env python3
"""The steps of `benches/flow.rs` in plain PyTorch, and both side by side.

    pip install torch
    python3 benches/pytorch.py                # PyTorch alone
    python3 benches/pytorch.py --ours         # then `cargo bench --bench flow`, and a table of both
    python3 benches/pytorch.py --memory       # peak memory of a training step, PyTorch's

The networks are those of the cINN t (arXiv 2008.01777) as the original builds them: modules, one after the other,
each half-step's nets on the concatenation of half and condition, Adam with betas (0.5, 0.9). `benches/gpu.py` measures
them on a GPU.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

SIZES = {
    "paper": dict(code=128, hidden=1024, depth=2, flows=20, condition=4096),
    "quick": dict(code=48, hidden=128, depth=2, flows=12, condition=128),
}
BATCHES = {"paper": [16, 64], "quick": [128]}


def networks(torch):
    nn = torch.nn

    class ActNorm(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(1, channels))
            self.scale = nn.Parameter(torch.ones(1, channels))
            self.started = False

        def forward(self, x):
            if not self.started:
                with torch.no_grad():
                    self.loc.copy_(-x.mean(0, keepdim=True))
                    self.scale.copy_(1 / (x.std(0, keepdim=True) + 1e-6))
                self.started = True
            return self.scale * (x + self.loc), self.scale.abs().log().sum()

        def inverse(self, v):
            return v / self.scale - self.loc

    def mlp(inputs, outputs, hidden, depth, tanh):
        widths = [inputs] + [hidden] * (depth + 1)
        layers = []
        for a, b in zip(widths, widths[1:]):
            layers += [nn.Linear(a, b), nn.LeakyReLU()]
        layers += [nn.Linear(hidden, outputs)] + ([nn.Tanh()] if tanh else [])
        return nn.Sequential(*layers)

    class Block(nn.Module):
        def __init__(self, code, hidden, depth):
            super().__init__()
            half = code // 2
            self.norm = ActNorm(code)
            self.s = nn.ModuleList(mlp(half + code, half, hidden, depth, True) for _ in range(2))
            self.t = nn.ModuleList(mlp(half + code, half, hidden, depth, False) for _ in range(2))
            self.register_buffer("order", torch.randperm(code), persistent=False)
            self.register_buffer("back", torch.argsort(self.order), persistent=False)

        def forward(self, x, c):
            x, logdet = self.norm(x)
            total = logdet.expand(x.shape[0])
            for i in range(2):
                if i:
                    x = torch.cat(torch.chunk(x, 2, 1)[::-1], 1)
                a, b = torch.chunk(x, 2, 1)
                seen = torch.cat([a, c], 1)
                s = self.s[i](seen)
                x = torch.cat([a, b * s.exp() + self.t[i](seen)], 1)
                total = total + s.sum(1)
            return x[:, self.order], total

        def inverse(self, v, c):
            x = v[:, self.back]
            for i in (1, 0):
                if not i:
                    x = torch.cat(torch.chunk(x, 2, 1)[::-1], 1)
                a, b = torch.chunk(x, 2, 1)
                seen = torch.cat([a, c], 1)
                x = torch.cat([a, (b - self.t[i](seen)) * (-self.s[i](seen)).exp()], 1)
            return self.norm.inverse(x)

    class Cinn(nn.Module):
        def __init__(self, code, hidden, depth, flows, condition):
            super().__init__()
            self.code = code
            widths = [int(condition + i * (code - condition) / 3) for i in range(3)] + [code]
            self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:]))
            self.norms = nn.ModuleList(ActNorm(w) for w in widths[1:-1])
            self.blocks = nn.ModuleList(Block(code, hidden, depth) for _ in range(flows))

        def embed(self, z):
            for dense, norm in zip(self.dense, self.norms):
                z = nn.functional.leaky_relu(norm(dense(z))[0], 0.2)
            return self.dense[-1](z)

        def forward(self, x, z):
            c = self.embed(z)
            total = 0.0
            for block in self.blocks:
                x, logdet = block(x, c)
                total = total + logdet
            return x, total

        @torch.no_grad()
        def sample(self, z, n):
            c = self.embed(z).repeat_interleave(n, 0)
            x = torch.randn(n * z.shape[0], self.code, device=z.device)
            for block in reversed(self.blocks):
                x = block.inverse(x, c)
            return x

    return Cinn


def median(f, times, warm):
    for _ in range(warm):
        f()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


def training(torch, size, batch, device="cpu", fused=None):
    """A network, conditions, and a function that runs one training step, on a device."""
    torch.manual_seed(0)
    with torch.device(device):
        t = networks(torch)(**size)
        x, z = torch.randn(batch, size["code"]), torch.randn(batch, size["condition"])
    adam = torch.optim.Adam(t.parameters(), lr=1e-6, betas=(0.5, 0.9), fused=fused)
    t(x, z)

    def step():
        v, logdet = t(x, z)
        loss = (0.5 * v.square().sum(1) - logdet).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return t, z, step


def measure(sizes):
    import torch

    results = {}

    def say(name, milliseconds):
        results[name] = milliseconds
        print(f"PyTorch {torch.__version__}  {name:28} {milliseconds:9.1f} ms (median)", flush=True)

    for name in sizes:
        size = SIZES[name]
        times = 5 if name == "paper" else 30
        for batch in BATCHES[name]:
            t, _, step = training(torch, size, batch)
            if batch == BATCHES[name][0]:
                count = sum(p.numel() for p in t.parameters())
                print(f"{name}: {count / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
            say(f"{name}/step/{batch}", median(step, times, 2))
            del t, step
        t, z, _ = training(torch, size, 16)
        for n in (1, 8, 64):
            say(f"{name}/sample/{n}", median(lambda: t.sample(z[:1], n), 2 * times, 2))
        say(f"{name}/sample/8 one by one", median(lambda: [t.sample(z[:1], 1) for _ in range(8)], times, 1))
        del t
    return results


def ours(pattern):
    """Medians of `cargo bench --bench flow` in milliseconds, from what criterion keeps."""
    root = pathlib.Path(__file__).resolve().parent.parent
    subprocess.run(["cargo", "bench", "--bench", "flow", "--", pattern], cwd=root, check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=root, check=True, capture_output=True
    )
    folder = pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "criterion"
    found = {}
    for file in folder.glob("*/**/new/estimates.json"):
        name = json.loads((file.parent / "benchmark.json").read_text())["full_id"]
        found[name] = json.loads(file.read_text())["median"]["point_estimate"] / 1e6
    return found


def table(theirs, found):
    print(f"\n{'':24}{'PyTorch':>12}{'ours':>12}{'ratio':>8}")
    for name, milliseconds in theirs.items():
        size, what, *rest = name.split("/")
        if what == "sample":
            rows = {name: found.get(name)}
        else:
            rows = {f"{name} {way}": found.get(f"{size}/step/{way}/{rest[0]}") for way in ("Ordinary", "Constant", "InBackward")}
        for row, value in rows.items():
            if value is not None:
                print(f"{row:24}{milliseconds:9.1f} ms{value:9.1f} ms{value / milliseconds:8.2f}")


def peak(flows, batch, size):
    """Peak resident memory of a process after two steps, in MiB."""
    import resource
    import torch

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    t, _, step = training(torch, dict(SIZES[size], flows=flows), batch)
    step()
    step()
    count = sum(p.numel() for p in t.parameters())
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{size} {flows} {batch} {(after - before) / 1024:.0f} {count * 16 / 2**20:.0f}")


def memory():
    print("peak of a training step less the process before it, in MiB; weights, gradients and Adam's moments")
    for size, batch in (("paper", 16), ("paper", 64), ("quick", 4096)):
        for flows in (5, 10, 20, 40):
            subprocess.run([sys.executable, __file__, "--peak", str(flows), str(batch), size], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", default=list(SIZES), help="paper, quick")
    parser.add_argument("--ours", action="store_true", help="run `cargo bench --bench flow` too, and compare")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        peak(int(args.peak[0]), int(args.peak[1]), args.peak[2])
    elif args.memory:
        memory()
    else:
        unknown = [s for s in args.sizes if s not in SIZES]
        if unknown:
            parser.error(f"no size {unknown[0]}; there are {', '.join(SIZES)}")
        theirs = measure(args.sizes)
        if args.ours:
            pattern = "/" if len(args.sizes) > 1 else f"{args.sizes[0]}/"
            table(theirs, ours(pattern))


if __name__ == "__main__":
    main()
