# %% [markdown]
# # Reading a run
#
# A run is a folder of plain files: JSON, JSON lines and parquet. docs/runs.md names every file and
# every number. First `python main.py name=first`, then this, in the same folder.

# %%
import json
from pathlib import Path

import pandas

folder = Path("runs/first")
iterations = sorted(folder.glob("iter_*"), key=lambda path: int(path.name.split("_")[1]))
iterations = [path for path in iterations if (path / "done.json").exists()]
if not iterations:
    raise SystemExit(f"{folder} has no finished iteration: `python main.py name=first` makes some")
print(f"{folder}: {len(iterations)} iterations done")

# %% [markdown]
# ## Training, step by step
#
# log pi of the three responses, and the share of the gradient that is left.

# %%
steps = pandas.concat(
    [pandas.read_json(path / "metrics.jsonl", lines=True) for path in iterations], ignore_index=True
)
columns = ["logps/annotated", "logps/synthetic", "advantages/current", "weights/current", "loss"]
print(steps.groupby("iteration")[columns].agg(["first", "last"]).T.to_string(float_format="%.3f"))

# %% [markdown]
# ## Held-out prompts
#
# `base` is the initial policy; iteration t is the policy after its training. The accuracy that the
# run says at its end is `exact_match,greedy`.

# %%
evaluations = {"base": folder / "base" / "eval.json"}
evaluations |= {path.name: path / "eval.json" for path in iterations}
rows = {
    name: {key: number["value"] for key, number in json.loads(path.read_text())["heldout"].items()}
    for name, path in evaluations.items()
}
heldout = pandas.DataFrame(rows).T
columns = ["exact_match,greedy", "exact_match,sampled", "perplexity", "logp_margin"]
print(heldout.filter(columns).to_string())

# %% [markdown]
# ## The contingency table
#
# Does the reward order y and y' as the log-likelihood does? `reward_only` and `logp_only` are the
# misaligned rows. First as the run has counted, then from the scores of the single rows.

# %%
last = iterations[-1]
counted = json.loads((last / "contingency.json").read_text())["train"]["contingency"]
scores = pandas.read_parquet(last / "scores.parquet").query("split == 'train'")
wide = scores.pivot(index=["id", "source"], columns="role", values=["logp", "reward"])
reward = wide["reward", "annotated"] > wide["reward", "synthetic"]
logp = wide["logp", "annotated"] > wide["logp", "synthetic"]
table = pandas.crosstab(reward.rename("reward of y above"), logp.rename("log pi(y) above"))
print(table)
assert counted["both"] == (reward & logp).sum()
assert counted["reward_only"] + counted["logp_only"] == (reward != logp).sum()

# %% [markdown]
# ## Samples
#
# Held-out rows, those first where the policy prefers its own answer most.

# %%
samples = pandas.read_json(last / "samples.jsonl", lines=True, dtype=False)
of_heldout = pandas.read_parquet(last / "scores.parquet").query("split == 'heldout'")
margins = of_heldout.pivot(index="id", columns="role", values="logp")
margin = (margins["annotated"] - margins["synthetic"]).rename("margin")
joined = samples.merge(margin, left_on="id", right_index=True).sort_values("margin")
print(joined[["margin", "prompt", "annotated", "synthetic"]].head(8).to_string(index=False))
