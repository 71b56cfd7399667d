"""Print the measured tables of docs/steering.md: python docs/generate/steering.py (about two minutes on one core)."""

from __future__ import annotations

import torch

from tropism.diffusion.flow_samplers import FlowSde
from tropism.diffusion.samplers import DDIM
from tropism.rewards.combine import Combined, Part
from tropism.sampling import condition
from tropism.steering.base import Method, steer
from tropism.steering.best_of_n import BestOfN
from tropism.steering.fk import Fk, FkPaper
from tropism.steering.intermediate import Learned
from tropism.steering.twisted import Twisted
from tropism.toy import Near, ToyPolicy
from tropism.toy_chains import Linear, MaskedChain, MixtureChain, Quadratic, task

EVERY = {"start": 0.0, "end": 1.0, "every": 0.0}
CORNERS = torch.tensor([[-2.0, -2], [2, -2], [-2, 2], [2, 2]])
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1])


def wavy(points: torch.Tensor) -> torch.Tensor:
    """A reward with many hills."""
    x, y = points[:, 0], points[:, 1]
    return torch.sin(3 * x) + torch.cos(5 * y + x) - 0.3 * points.square().sum(1)


def exact_worlds() -> None:
    """The deviation of log Z of 300 runs of 64 particles."""
    plane, text = MixtureChain(SHARES, CORNERS, 0.25, 50), MaskedChain(5, 10)
    twists = text.twists(10.0)
    linear, quadratic = Linear(torch.tensor([1.0, 0.5]).double()), Quadratic(torch.tensor([1.5, 1.0]).double())
    worlds = [
        ("linear", plane, linear, 1.0, plane.value(linear, 1.0)),
        ("quadratic", plane, quadratic, 1.0, plane.value(quadratic, 1.0)),
        ("text", text, text.reward, 10.0, lambda state, index: twists[index][text.number(state["x"])].log() / 10),
    ]
    for name, world, reward, lam, value in worlds:
        methods: dict[str, Method] = {
            "importance sampling": BestOfN(64, lam=lam),
            "predicted": Fk(64, lam=lam, schedule=EVERY),
            "max": Fk(64, lam=lam, schedule=EVERY, potential="max"),
            "sum": Fk(64, lam=lam, schedule=EVERY, potential="sum"),
            "4 samples": Fk(64, lam=lam, schedule=EVERY, intermediate={"samples": 4}),
            "exact value": Fk(64, lam=lam, schedule=EVERY, intermediate=Learned(value)),
            **({} if name == "text" else {"tds": Twisted(64, lam=lam)}),
        }
        for way, method in methods.items():
            found = method.run(task(world, reward, 300, 64, seed=31))
            print(f"{name:10s} {way:20s} deviation of log Z {found.log_z.std():.2f}   first noises left {found.roots.double().mean():.1f}")


def defaults(runs: int = 150) -> None:
    """The best reward of K particles on sixteen Gaussians, three seeds: mean and 95 % interval over all runs, and first noises left."""
    for sampler, parametrization in ((DDIM(1.0), "epsilon"), (FlowSde(), "flow")):
        policy = ToyPolicy(modes=16, radius=3.0, width=0.3, parametrization=parametrization)
        policy.trainable().requires_grad_(False)
        for name, reward in (("near", Near(3.0, 0.0)), ("wavy", wavy)):
            for count in (2, 4, 8, 32):
                methods: dict[str, Method] = {"best-of-n": BestOfN(count), "fk-paper": FkPaper(count)}
                methods.update({f"fk, ess {ess}": Fk(count, lam={"ess": ess}) for ess in (0.1, 0.2, 0.3)})
                for way, method in methods.items():
                    best, left = [], []
                    for seed in range(3):
                        cond = condition([{"prompt": "p"}] * (runs * count), seed, 0, count)
                        cond.encoded = policy.encode(cond.items)
                        found = steer(policy, cond, sampler, 25, Combined([Part(name, reward)]), method)
                        best.append(found.reward.gather(1, found.chosen))
                        left.append(found.roots.double())
                    values = torch.cat(best)
                    interval = 1.96 * values.std() / len(values) ** 0.5
                    place = f"{parametrization:8s} {name:5s} K {count:2d} {way:12s}"
                    print(f"{place} best {values.mean():6.2f} +- {interval:.2f}   first noises left {torch.cat(left).mean():.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    exact_worlds()
    defaults()
