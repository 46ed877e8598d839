#!/usr/bin/env python3
"""Write the fixture of flow Euler, with FlowMatchEulerDiscreteScheduler of diffusers.

    pip install torch diffusers
    python tests/oracle/flow_euler.py tests/fixtures/sched_flow_euler

The folder is like those of the other schedulers: config.json says what was run, io.safetensors holds `in.*` and `out.*`.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file

STEPS = (1, 2, 3, 4, 14, 20, 28, 50)
TRAJECTORY_STEPS = (1, 2, 20)
CLOSED = ((3.0, 20), (6.0, 14))
SHIFTS = (1.0, 3.0, 3.3, 6.0)
SHAPE = (1, 4, 3, 5)


def make(shift: float, steps: int) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(300)
    randn = lambda *shape: torch.randn(*shape, generator=generator)
    io = {}
    for shift in SHIFTS:
        for steps in STEPS:
            scheduler = make(shift, steps)
            io[f"out.shift{shift:g}.steps{steps}.sigmas"] = scheduler.sigmas
            io[f"out.shift{shift:g}.steps{steps}.timesteps"] = scheduler.timesteps
    for shift in SHIFTS[1:]:
        for steps in TRAJECTORY_STEPS:
            key = f"shift{shift:g}.steps{steps}"
            scheduler, sample, outputs, trace = make(shift, steps), randn(*SHAPE), randn(steps, *SHAPE), []
            io[f"in.{key}.sample"], io[f"in.{key}.model_outputs"] = sample, outputs
            for output, timestep in zip(outputs, scheduler.timesteps):
                sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
                trace.append(sample)
            io[f"out.{key}.samples"] = torch.stack(trace)
    # The velocity depends on the sample, so an error would add up.
    for shift, steps in CLOSED:
        key = f"closed.shift{shift:g}.steps{steps}"
        scheduler, sample, target, trace = make(shift, steps), randn(*SHAPE), randn(*SHAPE), []
        io[f"in.{key}.sample"], io[f"in.{key}.target"] = sample, target
        for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps):
            velocity = (sample - torch.tanh(target)) / torch.clamp(sigma, min=0.05)
            sample = scheduler.step(velocity, timestep, sample, return_dict=False)[0]
            trace.append(sample)
        io[f"out.{key}.samples"] = torch.stack(trace)
    save_file({name: tensor.contiguous() for name, tensor in io.items()}, folder / "io.safetensors")
    config = {
        "closed_loop": "velocity = (sample - tanh(target)) / max(sigma_i, 0.05)",
        "diffusers": diffusers.__version__,
        "scheduler": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            **{key: value for key, value in make(3.0, 1).config.items() if not key.startswith("_")},
        },
        "shifts": SHIFTS,
        "steps": STEPS,
        "tolerance": {"samples": 2e-6, "sigmas": 1e-7, "timesteps": 1e-4},
        "trajectory_steps": TRAJECTORY_STEPS,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
