#!/usr/bin/env python3
"""The networks of `benches/backbone.rs` in PyTorch at batch 4, and both side by side.

    pip install torch
    python3 benches/backbone.py            # PyTorch alone
    python3 benches/backbone.py --ours     # and `cargo bench --bench backbone`, in turns: three rounds, medians

Forward without a graph, with the image's gradient alone (weights frozen), with every gradient; batch norms in evaluation mode.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time

NETWORKS = {"alexnet": 227, "resnet50": 224, "squeezenet1_1": 224}


def network(torch, name):
    nn = torch.nn
    relu, pool = nn.ReLU, nn.MaxPool2d

    class Bottleneck(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            outputs = 4 * width
            self.body = nn.Sequential(
                nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), relu(True),
                nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), relu(True),
                nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
            )
            self.short = nn.Identity()
            if stride != 1 or inputs != outputs:
                self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x):
            return torch.relu(self.body(x) + self.short(x))

    class Fire(nn.Module):
        def __init__(self, inputs, squeeze):
            super().__init__()
            self.squeeze = nn.Sequential(nn.Conv2d(inputs, squeeze, 1), relu(True))
            self.one = nn.Sequential(nn.Conv2d(squeeze, 4 * squeeze, 1), relu(True))
            self.three = nn.Sequential(nn.Conv2d(squeeze, 4 * squeeze, 3, padding=1), relu(True))

        def forward(self, x):
            x = self.squeeze(x)
            return torch.cat([self.one(x), self.three(x)], 1)

    if name == "alexnet":
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), relu(True), pool(3, 2),
            nn.Conv2d(64, 192, 5, padding=2), relu(True), pool(3, 2),
            nn.Conv2d(192, 384, 3, padding=1), relu(True),
            nn.Conv2d(384, 256, 3, padding=1), relu(True),
            nn.Conv2d(256, 256, 3, padding=1), relu(True), pool(3, 2),
            nn.Flatten(), nn.Linear(9216, 4096), relu(True), nn.Linear(4096, 4096), relu(True), nn.Linear(4096, 1000),
        )
    if name == "resnet50":
        layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), relu(True), pool(3, 2, 1)]
        inputs = 64
        for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512))):
            for i in range(count):
                layers.append(Bottleneck(inputs, width, 2 if stage and not i else 1))
                inputs = 4 * width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000))
    layers, inputs = [nn.Conv2d(3, 64, 3, 2), relu(True), pool(3, 2, ceil_mode=True)], 64
    for i, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        if i in (2, 4):
            layers.append(pool(3, 2, ceil_mode=True))
        layers.append(Fire(inputs, squeeze))
        inputs = 8 * squeeze
    return nn.Sequential(*layers, nn.Conv2d(512, 1000, 1), relu(True), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def median(f, times=9):
    f()
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1e3


def peak():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name):
    import torch

    size = NETWORKS[name]
    torch.manual_seed(0)
    net = network(torch, name).eval()
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        forward = median(lambda: net(x))
    after = peak()
    image = x.clone().requires_grad_()
    net.requires_grad_(False)

    def input_gradient():
        image.grad = None
        net(image).sum().backward()

    given = median(input_gradient)
    net.requires_grad_(True)

    def every_gradient():
        net.zero_grad()
        net(x).sum().backward()

    print(f"{name} {forward:.1f} {given:.1f} {median(every_gradient):.1f} {after:.0f} {peak():.0f}")


def run(command):
    """Lines of a name and its numbers, by name."""
    root = pathlib.Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {words[0]: [float(w) for w in words[1:]] for words in lines if words and words[0] in NETWORKS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="run `cargo bench --bench backbone` too, in turns")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return measure(args.one)
    rounds = {name: ([], []) for name in NETWORKS}
    for _ in range(3):
        for name, (theirs, ours) in rounds.items():
            theirs.append(run([sys.executable, __file__, "--one", name])[name])
            if args.ours:
                ours.append(run(["cargo", "bench", "--locked", "--bench", "backbone", "--", name])[name])
    columns = ["forward", "image's gradient", "every gradient", "peak, forward", "peak, all"]
    middle = lambda runs: [statistics.median(column) for column in zip(*runs)]
    for name, (theirs, ours) in rounds.items():
        print(f"\n{name:20}" + "".join(f"{c:>18}" for c in columns) + "   (ms, MiB)")
        print(f"{'PyTorch':20}" + "".join(f"{v:18.1f}" for v in middle(theirs)))
        if ours:
            print(f"{'ours':20}" + "".join(f"{v:18.1f}" for v in middle(ours)))
            ratios = [[o / t for o, t in zip(a, b)] for a, b in zip(ours, theirs)]
            print(f"{'ratio':20}" + "".join(f"{v:18.2f}" for v in middle(ratios)))


if __name__ == "__main__":
    main()
