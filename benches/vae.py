#!/usr/bin/env python3
"""The training step of `benches/vae.rs` in PyTorch, and both side by side.

    pip install torch
    python3 benches/vae.py            # PyTorch alone
    python3 benches/vae.py --ours     # and `cargo bench --bench vae`, in turns: five rounds, medians

The network is the small VAE of arXiv 2004.13166 at full width: strided 4x4 convolutions with ActNorm and LeakyReLU(0.2), 32 px, code 64, batch 25.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import time


def network(torch):
    nn = torch.nn

    class ActNorm(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
            self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))

        def forward(self, x):
            return self.scale * (x + self.loc)

    widths = [64, 128, 256, 512]
    encoder, before = [], 3
    for width in widths:
        encoder += [nn.Conv2d(before, width, 4, 2, 1, bias=False), ActNorm(width), nn.LeakyReLU(0.2)]
        before = width
    encoder += [nn.Conv2d(512, 128, 2)]
    decoder = [nn.ConvTranspose2d(64, 512, 2)]
    for a, b in [(512, 256), (256, 128), (128, 64)]:
        decoder += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), ActNorm(b), nn.LeakyReLU(0.2)]
    decoder += [nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()]
    encoder, decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)
    gamma = nn.Parameter(torch.zeros(()))
    return encoder, decoder, gamma


def training(torch, batch, device="cpu"):
    """A function that runs one training step on fixed images, on a device."""
    with torch.device(device):
        encoder, decoder, gamma = network(torch)
        x = torch.rand(batch, 3, 32, 32) * 2 - 1
    parameters = [*encoder.parameters(), *decoder.parameters(), gamma]
    adam = torch.optim.Adam(parameters, 1e-4, betas=(0.5, 0.9))
    numbers = 3 * 32 * 32

    def step():
        mean, logvar = encoder(x).chunk(2, 1)
        logvar = logvar.clamp(-30, 10)
        decoded = decoder(mean + (0.5 * logvar).exp() * torch.randn_like(mean))
        nll = numbers * ((x - decoded).abs().mean() / gamma.exp() + gamma)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
        adam.zero_grad()
        (nll + kl).backward()
        adam.step()

    return step


def measure():
    import torch

    step = training(torch, 25)
    step()
    times = []
    for _ in range(15):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    print(f"step {statistics.median(times):.1f}")


def run(command):
    root = pathlib.Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("step "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="run `cargo bench --bench vae -- step` too, in turns")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return measure()
    theirs, ours = [], []
    for _ in range(5):
        theirs.append(run([sys.executable, __file__, "--one"]))
        if args.ours:
            ours.append(run(["cargo", "bench", "--locked", "--bench", "vae", "--", "step"]))
    print(f"PyTorch {statistics.median(theirs):.1f} ms per step")
    if ours:
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f"invariances {statistics.median(ours):.1f} ms per step, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
