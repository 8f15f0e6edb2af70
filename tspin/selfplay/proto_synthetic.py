"""The proto-synthetic responses y0: sampled once from the initial policy, and never again."""

from __future__ import annotations

from tspin.runs.artifacts import Responses, shared_folder
from tspin.selfplay.session import Session
from tspin.tools.files import link, read_json


def proto_synthetic(session: Session) -> None:
    """y0 ~ pi_theta_0 for every prompt, once for all runs that share a key: linked from there."""
    cfg, world, out = session.cfg, session.world, session.folder.proto
    if world.exists(out):
        return
    key = read_json(session.folder.initial) | session.samples_key
    shared = shared_folder(cfg.runs_dir, "proto", cfg.sampling_name, key)
    with world.held(shared, wait=True):
        samples = Responses(shared)
        if not world.exists(samples):
            session.generate(
                session.inputs.initial,
                session.inputs.prompts,
                samples,
                0,
                label="proto: generate",
                facts={"key": key},
            )
        elif samples.facts()["key"] != key:
            raise ValueError(f"{shared} holds samples of another policy, data or decoding")
        world.main(link, shared, out.path)
