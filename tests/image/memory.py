"""How much memory a recipe needs on a GPU, estimated from the real architecture on the meta device: nothing is allocated.

Weights are counted. Activations are counted too: one forward and backward of the real network runs on the meta device while every tensor
that is alive is added up. Attention is counted as the fused kernels do it, which keep no table of all pairs. What cannot be counted so is
taken as a tenth of the activations and 1 GB more: workspaces of kernels, fragments, the CUDA context.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.image import real
from tropism.policies.adapters import Lora, Trainable
from tropism.recipe import Recipe

GB = 1e9
SPARE, CONTEXT = 1.1, 1.0


@dataclass(frozen=True)
class Need:
    """Gigabytes (1e9 bytes). adapter: LoRA weights, gradients, both moments and averages. kept: states and conditions of a rollout."""

    weights: float
    rewards: float
    adapter: float
    kept: float
    update: float
    decode: float

    @property
    def total(self) -> float:
        """The larger of the two phases: activations of the update, or the decoding of a batch."""
        return self.weights + self.rewards + self.adapter + self.kept + SPARE * max(self.update, self.decode) + CONTEXT


class Alive(TorchDispatchMode):
    """Adds up the tensors that are alive, beside the weights of ``network``; ``peak`` is the most there were."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        for tensor in (*network.parameters(), *network.buffers()):  # their views are no new memory
            self.seen[tensor.untyped_storage()] = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self.seen:
                self.seen[storage] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _gone(self, count: int) -> None:
        self.now -= count


class Fused(torch.autograd.Function):
    """What a fused attention keeps: queries, keys, values, output and one number a row."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def fused() -> Iterator[None]:
    functional: Any = torch.nn.functional
    usual = functional.scaled_dot_product_attention

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> Any:
        return Fused.apply(query, key, value)

    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = usual


def denoiser(recipe: Recipe) -> tuple[torch.nn.Module, Trainable]:
    """The real network with the recipe's LoRA; raises PolicyError where a target matches nothing."""
    return _adapted(recipe.name, Lora(recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.targets))


def _adapted(name: str, lora: Lora) -> tuple[torch.nn.Module, Trainable]:
    network = real.on_meta(real.MODELS[name].denoiser)
    with torch.device("meta"):
        return network, Trainable(network, lora)


def rows(recipe: Recipe) -> int:
    """Rows of the network's batch in a training forward: guidance by a second prediction doubles them."""
    call = recipe.policy.arguments["call"]
    doubled = call.get("guidance_scale", 0) > 1 and recipe.name.split("/")[1].startswith(("sd15", "sdxl-ddpo", "sd35", "wan21"))
    return (recipe.train.micro or recipe.rollout.batch) * (2 if doubled else 1)


def update(recipe: Recipe) -> float:
    """Activations of a forward and backward at the recipe's batch, with its gradients, in bytes."""
    network, _ = denoiser(recipe)
    if recipe.train.checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    given = real.MODELS[recipe.name].inputs(rows(recipe))
    with fused(), Alive(network) as alive, torch.device("meta"):
        network(**given, return_dict=False)[0].float().sum().backward()
    return alive.peak


def decode(recipe: Recipe) -> float:
    """Activations of decoding a rollout's batch, in bytes; clips are decoded one by one."""
    model = real.MODELS[recipe.name]
    if "num_frames" in recipe.policy.arguments["call"]:
        return _decoded(model.parts["video autoencoder"], (1, *model.latent))
    config = real.on_meta(model.parts["autoencoder"]).config
    side = recipe.policy.arguments["call"]["height"] // 8
    latent = (side, side) if config.get("latent_channels") else (1, side, side)
    return _decoded(model.parts["autoencoder"], (recipe.rollout.batch, config.get("latent_channels") or config["z_dim"], *latent))


def _decoded(build: Callable[[], torch.nn.Module], shape: tuple[int, ...]) -> int:
    vae = real.on_meta(build)
    with torch.no_grad(), fused(), Alive(vae) as alive, torch.device("meta"):
        vae.decode(real.half(*shape))  # type: ignore[operator]
    return alive.peak


def conditions(recipe: Recipe) -> int:
    """Bytes of one sample's conditions, with all copies that guidance asks for."""
    inputs = real.MODELS[recipe.name].inputs
    copies = rows(recipe) // (recipe.train.micro or recipe.rollout.batch)
    held = [t for name, t in inputs(1).items() if name not in ("sample", "hidden_states")]
    return copies * sum(tensor.nbytes for tensor in tree_leaves(held) if isinstance(tensor, torch.Tensor))


@functools.cache
def weights_of(build: Callable[[], torch.nn.Module]) -> int:
    return real.size(real.on_meta(build))


@functools.cache
def learning(name: str, lora: Lora) -> int:
    """Numbers in the LoRA of a recipe's network."""
    return sum(parameter.numel() for parameter in _adapted(name, lora)[1].parameters.values())


def need(recipe: Recipe, activations: bool = True) -> Need:
    """The estimate for one recipe with its overrides applied; without ``activations``, which take seconds, they are 0."""
    model = real.MODELS[recipe.name]
    left_out = {"text_encoder_3": "T5-XXL"}
    gone = {left_out[name] for name in recipe.policy.arguments.get("without", ()) if name in left_out}
    learned = learning(recipe.name, Lora(recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.targets))
    copies = 4 + (recipe.adapter.ema is not None) + (recipe.optimizer.use == "nft")
    stored = 0 if recipe.optimizer.use == "nft" else 1 + (recipe.rollout.window.size if recipe.rollout.window else recipe.rollout.steps)
    numbers = torch.Size(model.latent).numel()
    weights = weights_of(model.denoiser) + sum(weights_of(build) for name, build in model.parts.items() if name not in gone)
    scored = sum(weights_of(real.REWARDS[part.use]) for part in (*recipe.rewards, *recipe.evaluate.rewards))
    return Need(
        weights=2 * weights / GB,
        rewards=2 * scored / GB,
        adapter=4 * copies * learned / GB,
        kept=recipe.rollout.samples * (4 * numbers * (stored + 1) + conditions(recipe)) / GB,
        update=update(recipe) / GB if activations else 0,
        decode=decode(recipe) / GB if activations else 0,
    )
