"""What this plugin registers. Nothing heavy is imported here."""

from __future__ import annotations

from tropism import Entry, hookimpl

HERE = "tropism_3d"


@hookimpl
def register_rewards() -> list[Entry]:
    return [
        Entry("3d/stability", f"{HERE}.rewards.stability:Stability", "how upright an object is after a simulation (DSO)"),
        Entry("3d/stands", f"{HERE}.rewards.stability:Stands", "1 where it is tilted by less than 20 degrees: DSO's label"),
        Entry("3d/simulated", f"{HERE}.rewards.stability:Simulated", "1 where there is an object to simulate; to be watched"),
        Entry("3d/robustness", f"{HERE}.rewards.stability:Robustness", "share of kicks, floors and slopes under which it stands"),
        Entry("3d/likeness", f"{HERE}.rewards.likeness:Likeness", "F-score to the real object; to be watched"),
        Entry("3d/emptiness", f"{HERE}.rewards.likeness:emptiness", "share of the cube left empty; to be watched"),
        Entry("3d/barrier", f"{HERE}.rewards.barrier:Barrier", "energy to tip an object over, differentiable, without a simulation"),
        Entry("3d/support-margin", f"{HERE}.rewards.support:SupportMargin", "how far over its footprint the mass is, without a simulation"),
    ]


@hookimpl
def register_policies() -> list[Entry]:
    return [
        Entry(
            "3d/furniture-flow",
            f"{HERE}.generators.furniture_flow:FurnitureFlow",
            "furniture from a depth picture, 4.3 M parameters, shipped",
        ),
        Entry("3d/shap-e", f"{HERE}.generators.shap_e:from_source", "Shap-E from a folder or a hub name: text or a picture to 3D"),
        Entry("3d/trellis", f"{HERE}.generators.trellis:TrellisStructure", "TRELLIS' first stage, from a checkout of it; what DSO tunes"),
    ]


@hookimpl
def register_datasets() -> list[Entry]:
    return [
        Entry("3d/furniture", f"{HERE}.furniture:Furniture", "pieces of furniture, seen from eight sides; 64 were never seen"),
        Entry("3d/picture-tokens", f"{HERE}.tokens:PictureTokens", "folders of pictures as TRELLIS' tokens, a file each"),
    ]


@hookimpl
def register_evaluators() -> list[Entry]:
    return [
        Entry("3d/geometry", f"{HERE}.evaluators.geometry:Geometry", "F-score, Chamfer, silhouette, volume, footprint, components"),
        Entry("3d/stable", f"{HERE}.evaluators.stable:Stable", "shares that stand at 5, 10 and 20 degrees, and the mean angle"),
    ]


@hookimpl
def register_views() -> list[Entry]:
    return [Entry("3d/occupancy", f"{HERE}.view:ShapeView", "meshes: shaded pictures that turn when enlarged")]


@hookimpl
def register_recipes() -> list[Entry]:
    return [
        Entry("3d/dso-dpo", f"{HERE}:recipes/dso-dpo.yaml", "DSO with DPO: furniture that stands"),
        Entry("3d/dso-dro", f"{HERE}:recipes/dso-dro.yaml", "DSO with a bounded DRO: furniture that stands"),
        Entry("3d/dso-direct", f"{HERE}:recipes/dso-direct.yaml", "furniture that stands, by the gradient of its energy barrier"),
        Entry("3d/dso-dpo-paper", f"{HERE}:recipes/dso-dpo-paper.yaml", "DSO with DPO and the paper's hyper-parameters"),
        Entry("3d/dso-dro-paper", f"{HERE}:recipes/dso-dro-paper.yaml", "DSO with DRO and the paper's hyper-parameters"),
        Entry("3d/shap-e-dso-dpo", f"{HERE}:recipes/shap-e-dso-dpo.yaml", "DSO with DPO on Shap-E"),
        Entry("3d/trellis-dso-dro", f"{HERE}:recipes/trellis-dso-dro.yaml", "DSO with DRO on TRELLIS' first stage, as in the paper"),
    ]
