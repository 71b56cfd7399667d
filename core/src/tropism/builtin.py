"""What the core itself registers: a plugin like any other, loaded first."""

from __future__ import annotations

from tropism.entry import Entry
from tropism.hookspecs import hookimpl


@hookimpl
def register_policies() -> list[Entry]:
    return [
        Entry("pipeline", "tropism.policies.pipeline:from_folder", "any diffusers pipeline, from a folder or a hub name"),
        Entry("toy/mixture", "tropism.toy:ToyPolicy", "a 2-D Gaussian mixture with an exact denoiser"),
    ]


@hookimpl
def register_rewards() -> list[Entry]:
    return [Entry("toy/near", "tropism.toy:Near", "minus the distance to a point of the plane")]


@hookimpl
def register_optimizers() -> list[Entry]:
    return [
        Entry(
            "policy-gradient",
            "tropism.optimizers.policy_gradient:PolicyGradient",
            "clipped policy gradient on step log-probabilities (DDPO, RLCM, Flow-GRPO, MixGRPO, GRPO-Guard)",
        ),
        Entry("nft", "tropism.optimizers.nft:Nft", "good and bad samples teach through the forward process (DiffusionNFT)"),
        Entry("awm", "tropism.optimizers.awm:Awm", "advantage-weighted matching of finished samples"),
        Entry("d3po", "tropism.optimizers.d3po:D3po", "preferences between trajectories of one first noise, step by step (D3PO)"),
        Entry("spo", "tropism.optimizers.spo:Spo", "at every step the better of several next states against the worse (SPO)"),
        Entry("dpo", "tropism.optimizers.dpo:Dpo", "preferences by denoising errors (Diffusion-DPO, Flow-DPO, masked DPO)"),
        Entry("inpo", "tropism.optimizers.inpo:Inpo", "Diffusion-DPO at states that inversion leads to (InPO)"),
        Entry("smpo", "tropism.optimizers.smpo:Smpo", "InPO with soft labels and a corrected inversion (SmPO)"),
        Entry("densedpo", "tropism.optimizers.densedpo:DenseDpo", "preferences of segments or regions, one sigmoid for a pair (DenseDPO)"),
        Entry("kto", "tropism.optimizers.kto:Kto", "samples labelled good or bad, against their reference (Diffusion-KTO)"),
        Entry("dro", "tropism.optimizers.dro:Dro", "samples labelled good or bad, without a reference (DSO's DRO)"),
        Entry("direct", "tropism.optimizers.direct:Direct", "back-propagation of a differentiable reward (DRaFT, AlignProp, ReFL)"),
        Entry("rlcm-direct", "tropism.optimizers.rlcm_direct:RlcmDirect", "policy gradient, and back-propagation through the last step"),
    ]


@hookimpl
def register_samplers() -> list[Entry]:
    return [
        Entry("ddim", "tropism.diffusion.samplers:DDIM", "DDIM with noise eta (Song et al. 2021; DDPO takes eta 1)"),
        Entry("consistency", "tropism.diffusion.samplers:Consistency", "multistep consistency sampling (LCM): denoise, then noise again"),
        Entry("ode", "tropism.diffusion.flow_samplers:Ode", "the probability-flow ODE by Euler (order 1) or Heun (order 2)"),
        Entry("flow-sde", "tropism.diffusion.flow_samplers:FlowSde", "the SDE of Flow-GRPO"),
        Entry("dance-sde", "tropism.diffusion.flow_samplers:DanceSde", "the SDE of DanceGRPO"),
        Entry("cps", "tropism.diffusion.flow_samplers:Cps", "coefficients-preserving sampling: fresh noise, never too much of it"),
        Entry("glass", "tropism.diffusion.glass:Glass", "noisy steps with the exact law of a flow, by an inner ODE; for steering (GLASS)"),
    ]


@hookimpl
def register_steering() -> list[Entry]:
    return [
        Entry("best-of-n", "tropism.steering.best_of_n:BestOfN", "independent samples, of which the best is chosen; with lambda, weighted"),
        Entry("fk", "tropism.steering.fk:Fk", "Feynman-Kac steering: particles weighed and resampled on the way"),
        Entry("fk-paper", "tropism.steering.fk:FkPaper", "the settings of the Feynman-Kac steering paper, with its weights kept exact"),
        Entry("tds", "tropism.steering.twisted:Twisted", "twisted sequential Monte Carlo: proposals follow a differentiable reward (TDS)"),
        Entry("das", "tropism.steering.twisted:Das", "twisted, with a strength that rises over the steps (DAS)"),
        Entry("svdd", "tropism.steering.svdd:Svdd", "each chain tries several moves at a step and takes one by its reward (SVDD)"),
        Entry("psp", "tropism.steering.psp:Psp", "many first noises, the less promising given up early; for any sampler (PSP)"),
        Entry("bfs", "tropism.steering.bfs:Bfs", "children by softmax of the reward, at a temperature that falls over the steps (BFS)"),
        Entry("rollover", "tropism.steering.rollover:Rollover", "a budget of forwards, spent at the steps where progress is hard (RBF)"),
        Entry("zero-order", "tropism.steering.zero_order:ZeroOrder", "neighbours of the best first noise so far; for any sampler"),
        Entry("paths", "tropism.steering.paths:Paths", "samples on the way noised again and taken further; for any sampler"),
        Entry("ascent", "tropism.steering.ascent:Ascent", "finished samples moved up a differentiable reward, and held to what they were"),
        Entry("gibbs", "tropism.steering.gibbs:Gibbs", "particle Gibbs: sweeps that keep a path, near the tilted law with few particles"),
    ]


@hookimpl
def register_credits() -> list[Entry]:
    return [
        Entry("per-prompt", "tropism.credit:PerPrompt", "mean and deviation of each prompt's recent rewards (DDPO)"),
        Entry("group", "tropism.credit:Group", "mean and deviation of each group of siblings (GRPO)"),
        Entry("batch", "tropism.credit:Batch", "mean and deviation of the whole rollout"),
        Entry("best-worst", "tropism.judges:BestWorst", "judge: the best against the worst of each group"),
        Entry("all-pairs", "tropism.judges:AllPairs", "judge: every two siblings, the better against the worse"),
        Entry("pareto", "tropism.judges:Pareto", "judge: every two siblings, where no reward disagrees"),
    ]


@hookimpl
def register_evaluators() -> list[Entry]:
    return [
        Entry("base-distance", "tropism.evaluate:BaseDistance", "root mean square distance to the base model's sample of the same seed"),
        Entry(
            "steered",
            "tropism.turning.baseline:Steered",
            "the base model, steered instead of trained: all rewards of the best of K particles",
        ),
    ]


@hookimpl
def register_datasets() -> list[Entry]:
    return [
        Entry("prompts", "tropism.data.prompts:Prompts", "prompts from text files, one a line, or from a list"),
        Entry("feedback", "tropism.data.feedback:Judged", "reader: feedback.jsonl, the votes on each pair put together"),
        Entry("folder", "tropism.data.folder:Folder", "reader: a folder of media and a jsonl of pairs or labels"),
        Entry("hpd2", "tropism.data.hpd:Hpd2", "reader: Human Preference Dataset v2, pairs and rankings"),
        Entry("hpd3", "tropism.data.hpd:Hpd3", "reader: Human Preference Dataset v3, pairs with shares of votes"),
        Entry("imagereward", "tropism.data.imagereward:ImageRewardDB", "reader: ImageRewardDB, every pair of a ranking"),
        Entry("kto", "tropism.data.kto:Kto", "reader: Diffusion-KTO's csv of labelled pictures"),
        Entry("pickapic", "tropism.data.pickapic:PickAPic", "reader: Pick-a-Pic v1 and v2, pairs of pictures in parquet"),
        Entry("trl", "tropism.data.trl:Trl", "reader: TRL's columns, chosen and rejected, or completion and label"),
        Entry("videoalign", "tropism.data.videoalign:VideoAlign", "reader: VideoAlign's csv of pairs of clips"),
        Entry("videofeedback", "tropism.data.videofeedback:VideoFeedback", "reader: VideoFeedback's graded clips, as labels"),
        Entry("webdataset", "tropism.data.webdataset:WebDataset", "reader: tar files of pairs or of labelled media"),
    ]


@hookimpl
def register_recipes() -> list[Entry]:
    return [
        Entry("toy/ddpo", "tropism:recipes/toy-ddpo.yaml", "the whole loop in seconds, on a 2-D mixture"),
        Entry("toy/flow-grpo", "tropism:recipes/toy-flow-grpo.yaml", "Flow-GRPO with a window of trained steps, on a 2-D flow"),
        Entry("toy/d3po", "tropism:recipes/toy-d3po.yaml", "D3PO on a 2-D mixture: preferences between trajectories of one first noise"),
        Entry("toy/spo", "tropism:recipes/toy-spo.yaml", "SPO on a 2-D mixture: preferences between candidates for the next state"),
        Entry("toy/dpo", "tropism:recipes/toy-dpo.yaml", "Diffusion-DPO on a 2-D mixture: pairs from a judge by reward"),
        Entry("toy/nft", "tropism:recipes/toy-nft.yaml", "DiffusionNFT on a 2-D flow: no trajectory, any sampler"),
    ]


@hookimpl
def register_views() -> list[Entry]:
    return [Entry("toy/points", "tropism.toy:PointView", "a point of the plane")]


@hookimpl
def register_trackers() -> list[Entry]:
    return [
        Entry("tensorboard", "tropism.track:TensorBoard", "TensorBoard event files in the run folder", "tropism[tensorboard]"),
        Entry("wandb", "tropism.track:WandB", "Weights & Biases", "tropism[wandb]"),
        Entry("trackio", "tropism.track:Trackio", "trackio, local first", "tropism[trackio]"),
    ]
