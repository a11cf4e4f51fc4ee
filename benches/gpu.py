#!/usr/bin/env python3
"""The training steps and samples of `benches/gpu.rs` in plain PyTorch on one GPU.

    python3 benches/gpu.py                  # prints name, mode, median and mean in ms, separated by tabs
    python3 benches/gpu.py --json FILE      # also writes them to FILE, with the GPU's name and the versions
    python3 benches/gpu.py --quick          # fewer repetitions

The networks are those of `benches/pytorch.py` (cINN) and `benches/vae.py` (small VAE). All data are fixed random
tensors on the GPU. The median is over single steps, each between two synchronizations. The mean is the time per step of
many steps in a row with one synchronization at the end, as in a training loop. Lines that start with `memory/` give the
peak of a training step in MiB instead: allocated by tensors, and reserved by PyTorch's allocator.

The mode is `f32` (TF32 off for matrix products and for cuDNN) or `tf32` (on for both). PyTorch's defaults lie between
them: TF32 off for matrix products, on for convolutions. Everything else is PyTorch's default: eager execution, no
`torch.compile`, no CUDA graphs, `cudnn.benchmark` off.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time

import pytorch
import vae

PAPER, QUICK = pytorch.SIZES["paper"], pytorch.SIZES["quick"]
MODES = {"f32": False, "tf32": True}


def workloads(torch, device):
    """By name: a function that creates a network and its data, and returns a function to time."""

    def step(size, batch, fused=None):
        return lambda: pytorch.training(torch, size, batch, device, fused)[2]

    def sample(size, n):
        def create():
            t, z, _ = pytorch.training(torch, size, 16, device)
            return lambda: t.sample(z[:1], n)

        return create

    return {
        "cinn-paper/step/64": step(PAPER, 64),
        "cinn-paper/step-fused-adam/64": step(PAPER, 64, True),
        "cinn-paper/sample/64": sample(PAPER, 64),
        "cinn-quick/step/128": step(QUICK, 128),
        "vae/step/25": lambda: vae.training(torch, 25, device),
        "vae/step/64": lambda: vae.training(torch, 64, device),
    }


MEMORY = ["cinn-paper/step/64", "vae/step/64"]


def milliseconds(run, synchronize, warm, times, in_a_row):
    """Median time of one call, and mean time of many calls in a row."""
    for _ in range(warm):
        run()
    spent = []
    for _ in range(times):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        spent.append(time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(in_a_row):
        run()
    synchronize()
    mean = (time.perf_counter() - start) / in_a_row
    return statistics.median(spent) * 1e3, mean * 1e3


def driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions(torch, device):
    gpu = torch.cuda.get_device_name() if device == "cuda" else device
    cudnn = torch.backends.cudnn.version() if device == "cuda" else None
    return {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": cudnn, "driver": driver()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of the names to measure, such as vae or sample; default: all")
    parser.add_argument("--json", metavar="FILE", help="write the results to this file too")
    parser.add_argument("--quick", action="store_true", help="5 + 10 + 15 steps instead of 10 + 30 + 50")
    parser.add_argument("--limit", type=float, default=80, help="start no measurement after this many seconds")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu only tests this script")
    args = parser.parse_args()
    began = time.perf_counter()

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("expected a GPU, but torch.cuda.is_available() is False")
    cuda = args.device == "cuda"
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    repetitions = (5, 10, 15) if args.quick else (10, 30, 50)
    about = versions(torch, args.device)
    print("# " + ", ".join(f"{k} {v}" for k, v in about.items()), flush=True)

    rows, late = [], []
    for name, create in workloads(torch, args.device).items():
        if args.names and not any(part in name for part in args.names):
            continue
        for mode, tf32 in MODES.items():
            if time.perf_counter() - began > args.limit:
                late.append(f"{name} {mode}")
                continue
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.backends.cudnn.allow_tf32 = tf32
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            run = create()
            median, mean = milliseconds(run, synchronize, *repetitions)
            rows.append({"name": name, "mode": mode, "median_ms": median, "mean_ms": mean})
            print(f"{name}\t{mode}\t{median:.4f}\t{mean:.4f}", flush=True)
            if cuda and name in MEMORY:
                allocated = torch.cuda.max_memory_allocated() / 2**20
                reserved = torch.cuda.max_memory_reserved() / 2**20
                row = {"name": f"memory/{name}", "mode": mode, "allocated_mib": allocated, "reserved_mib": reserved}
                rows.append(row)
                print(f"memory/{name}\t{mode}\t{allocated:.1f}\t{reserved:.1f}", flush=True)
            # Optimizers and parameters refer to each other; their memory must be free for the next network.
            del run
            gc.collect()

    if args.json:
        with open(args.json, "w") as file:
            json.dump({**about, "rows": rows, "left_out": late}, file, indent=1)
    if late:
        print(f"# not measured, after {args.limit:.0f} s: {', '.join(late)}")


if __name__ == "__main__":
    main()
