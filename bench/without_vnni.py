"""How fast image graphs are on a CPU without VNNI and AVX-512, measured on one that has them (Linux, x86-64, gcc).

onnxruntime picks its kernels by the `cpuid` instruction. In a copy of its library each one becomes `ud2`, an illegal
instruction, and a preloaded signal handler answers in its place, with AVX-512, VNNI, bf16 and AMX left out. So the AVX2
kernels run, on real hardware. 8-bit weights are there too, for comparison: image.int8.onnx has weights of 7 bits.

    python bench/without_vnni.py models/onnx --photos ../shared/photos
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from command import launch

from clipline.errors import CliplineError, UsageError
from clipline.runtime.bundle import Bundle

HANDLER = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <ucontext.h>
static void answer(int number, siginfo_t *info, void *context) {
    greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *code = (unsigned char *)at[REG_RIP];
    uint32_t leaf = at[REG_RAX], part = at[REG_RCX], a, b, c, d;
    if (code[0] != 0x0f || code[1] != 0x0b) { signal(SIGILL, SIG_DFL); return; }
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(leaf), "c"(part));
    if (leaf == 7 && part == 0) {  /* AVX-512, VNNI, AMX: Intel's manual, volume 2A, CPUID */
        b &= ~0xdc230000u; c &= ~0x00005842u; d &= ~0x03c00100u;
    } else if (leaf == 7 && part == 1) { a &= ~0x00000030u; d = 0; }
    at[REG_RAX] = a; at[REG_RBX] = b; at[REG_RCX] = c; at[REG_RDX] = d; at[REG_RIP] += 2;
}
__attribute__((constructor)) static void install(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer; action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, 0);
}
"""
BATCH, ROUNDS = 16, 7


def measure(folder: Path, pixels: Path) -> None:
    """Print JSON: of each graph in `folder`, images/s of its best batch (in turns), and its mean cosine with fp32's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    sessions = {
        file.stem: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for file in sorted(folder.glob("*.onnx"))
    }
    images, best = np.load(pixels), dict.fromkeys(sessions, np.inf)
    vectors = {name: session.run(None, {"pixels": images})[0] for name, session in sessions.items()}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            begun = time.perf_counter()
            session.run(None, {"pixels": images[:BATCH]})
            best[name] = min(best[name], time.perf_counter() - begun)
    cosine = {name: float((vectors["fp32"] * vectors[name]).sum(axis=1).mean()) for name in sessions}
    print(json.dumps({name: [BATCH / best[name], cosine[name]] for name in sessions}))


def hide_avx512(folder: Path) -> dict[str, str]:
    """Put the changed copy of onnxruntime and the handler into `folder`. Returns the environment that uses them."""
    import onnxruntime

    shutil.copytree(
        Path(onnxruntime.__file__).parent, folder / "onnxruntime", ignore=shutil.ignore_patterns("*_cuda.so")
    )
    (library,) = (folder / "onnxruntime/capi").glob("onnxruntime_pybind11_state*.so")
    listing = subprocess.run(["objdump", "-d", library], check=True, capture_output=True, text=True).stdout
    code = bytearray(library.read_bytes())
    for address in re.findall(r"^ *([0-9a-f]+):\t0f a2 +\tcpuid", listing, re.MULTILINE):
        at = int(address, 16)
        if code[at : at + 2] != b"\x0f\xa2":
            raise CliplineError(f"{library}: addresses are not offsets in the file, so cpuid cannot be found")
        code[at : at + 2] = b"\x0f\x0b"
    library.write_bytes(code)
    (folder / "handler.c").write_text(HANDLER)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", folder / "handler.so", folder / "handler.c"], check=True)
    return {"PYTHONPATH": str(folder), "LD_PRELOAD": str(folder / "handler.so")}


def eight_bits(source: Path, target: Path, pixels: np.ndarray) -> None:
    """image.int8.onnx as it was before its weights had 7 bits."""
    from clipline.export import int8

    seven = int8.quantize_static
    int8.quantize_static = lambda *args, **settings: seven(*args, **settings | {"reduce_range": False})
    int8.to_int8(source, target, iter([pixels[start : start + 8] for start in range(0, len(pixels), 8)]), pixels[:8])


def main(
    model: Annotated[Path, typer.Argument(help="An exported model with an int8 graph.")],
    photos: Annotated[Path, typer.Option(help="A folder of JPEG files, 64 of which are embedded.")],
) -> None:
    """Measure fp32, int8 and int8 with weights of 8 bits, with the CPU's instructions and with AVX2 alone."""
    bundle = Bundle(model)
    if "int8" not in bundle.manifest.image:
        raise UsageError(f"{model}: has no int8 graph")
    preprocess = bundle.preprocess.make()
    pixels = np.stack([preprocess.read(file)[0] for file in sorted(photos.rglob("*.jpg"))[:64]])
    with tempfile.TemporaryDirectory() as name:
        work, graphs = Path(name), Path(name) / "graphs"
        graphs.mkdir()
        np.save(work / "pixels.npy", pixels)
        for precision in ("fp32", "int8"):
            shutil.copy(bundle.graph_path(bundle.manifest.image[precision]), graphs / f"{precision}.onnx")
        eight_bits(graphs / "fp32.onnx", graphs / "int8 with weights of 8 bits.onnx", pixels)
        command = [sys.executable, __file__, "measure", graphs, work / "pixels.npy"]
        for title, environment in (("all instructions", {}), ("AVX2 alone", hide_avx512(work))):
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
            figures = json.loads(done.stdout)
            for graph, (rate, cosine) in figures.items():
                ratio = rate / figures["fp32"][0]
                print(f"{title:16} | {graph:28} | {rate:7.1f} images/s | {ratio:.2f} x fp32 | cosine {cosine:.5f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*map(Path, sys.argv[2:]))
    else:
        launch(main)
