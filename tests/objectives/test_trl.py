"""The objectives that TRL has, too: its own code on the same numbers gives the same losses."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from support.tiny import chat_tokenizer, random_model

from tspin.objectives import (
    CPO,
    IPO,
    KTO,
    NCA,
    ORPO,
    SPACE,
    SPIN,
    SPPO,
    TPO,
    APOZero,
    Logps,
    SimPO,
)

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.slow

LENGTHS = {"annotated": [3, 5], "synthetic": [4, 2], "proto": [2, 5]}
BETA = 0.3


@pytest.fixture(scope="module")
def numbers():
    """Log-probs a token (of y, then of y', padded), their sums by role, and a reference's."""
    generator = torch.Generator().manual_seed(0)
    per_token = -3 * torch.rand(4, 5, dtype=torch.float64, generator=generator)
    counts = torch.tensor([*LENGTHS["annotated"], *LENGTHS["synthetic"]])
    mask = torch.arange(5) < counts[:, None]
    y, s = (per_token * mask).sum(1).chunk(2)
    reference = -3 * torch.rand(2, 2, dtype=torch.float64, generator=generator)
    lengths = {role: torch.tensor(LENGTHS[role]) for role in ("annotated", "synthetic")}
    policy = Logps(annotated=y, synthetic=s, lengths=lengths)
    return per_token * mask, mask, policy, Logps(*reference, lengths=lengths)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    options = trl.DPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), beta=BETA, precompute_ref_log_probs=True,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    model = random_model(dtype=torch.float32)
    return trl.DPOTrainer(
        model, args=options, train_dataset=rows, processing_class=chat_tokenizer()
    )


@pytest.mark.parametrize(
    ("loss_type", "objective"),
    [
        ("sigmoid", SPIN(BETA)),
        ("ipo", IPO(BETA)),
        ("nca_pair", NCA(BETA)),
        ("bco_pair", SPACE(1.0)),  # at beta 1, below
        ("sppo_hard", SPPO(BETA)),
        ("apo_zero", APOZero(BETA)),
    ],
)
def test_dpo_trainer_has_the_same_loss(loss_type, objective, numbers, trainer):
    """TRL's loss of a batch; the model in its place answers with the given numbers."""
    per_token, mask, policy, reference = numbers
    trainer.loss_types, trainer.loss_weights = [loss_type], [1.0]
    trainer.beta = 1.0 if isinstance(objective, SPACE) else BETA
    first = torch.zeros(4, 1, dtype=torch.bool)
    batch = {
        "input_ids": torch.ones(4, 6, dtype=torch.long),
        "attention_mask": torch.cat([~first, mask], 1).long(),
        "completion_mask": torch.cat([first, mask], 1).long(),
        "ref_chosen_logps": reference.annotated,
        "ref_rejected_logps": reference.synthetic,
    }

    def model(**_):
        zeros = torch.zeros_like(per_token)  # of what it reports beside the loss
        return SimpleNamespace(
            log_probs=per_token, entropy=zeros, mean_logits=zeros, is_top1=mask,
        )  # fmt: skip

    theirs = trainer._compute_loss(model, batch, return_outputs=False)
    ours = objective(policy, reference)[0].mean()
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory):
    options = trl.KTOConfig(
        output_dir=str(tmp_path_factory.mktemp("kto")), beta=BETA, precompute_ref_log_probs=True,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    rows = Dataset.from_list([{"prompt": "a", "completion": "b", "label": True},
                              {"prompt": "c", "completion": "d", "label": False}] * 4)  # fmt: skip
    model = random_model(dtype=torch.float32)
    return trl.KTOTrainer(
        model, args=options, train_dataset=rows, processing_class=chat_tokenizer()
    )


def test_kto_trainer_has_the_same_loss_of_each_half(numbers, unpaired):
    """TRL takes its KL from a second pass over responses of other prompts; here that pass is given
    the other half of the pairs, as KTO has it where responses come in pairs."""
    per_token, mask, policy, _ = numbers
    gains = torch.tensor([[1.0, 2.0], [-1.0, 3.0]]).double()  # of y, of y': means above 0
    reference = Logps(policy.annotated - gains[0], policy.synthetic - gains[1])
    first = torch.zeros(2, 1, dtype=torch.bool)
    theirs = []
    for own, other in (("annotated", "synthetic"), ("synthetic", "annotated")):
        rows = {"annotated": slice(0, 2), "synthetic": slice(2, 4)}
        batch = {
            "label": torch.tensor([own == "annotated"] * 2),
            "ref_logps": reference[own],
            "ref_KL_logps": reference[other],
        }
        for prefix, role in (("", own), ("KL_", other)):
            responses = mask[rows[role]]
            batch |= {
                f"{prefix}input_ids": torch.full((2, 6), 1 + (role == "synthetic")),
                f"{prefix}attention_mask": torch.cat([~first, responses], 1).long(),
                f"{prefix}completion_mask": torch.cat([first, responses], 1).long(),
            }

        def model(input_ids, **_):
            values = per_token[slice(2, 4) if input_ids[0, 0] == 2 else slice(0, 2)]
            zeros = torch.zeros_like(values)
            return SimpleNamespace(log_probs=values, entropy=zeros, mean_logits=zeros)

        theirs.append(unpaired._compute_loss(model, batch, return_outputs=False))
    ours = KTO(BETA)(policy, reference)[0].mean()
    torch.testing.assert_close(ours, sum(theirs).to(ours.dtype), rtol=1e-6, atol=1e-6)


CPU = SimpleNamespace(device="cpu")


@pytest.mark.parametrize("loss_type", ["sigmoid", "simpo"])
def test_cpo_trainer_has_the_same_contrast(loss_type, numbers):
    """CPO's without its NLL, on sums, and SimPO's, on means over tokens."""
    from trl.experimental.cpo import CPOTrainer

    _, _, policy, _ = numbers
    settings = SimpleNamespace(
        accelerator=CPU, alpha=0.0, beta=BETA, label_smoothing=0.0, loss_type=loss_type,
        simpo_gamma=0.8 * BETA,
    )  # fmt: skip
    given = policy.per_token() if loss_type == "simpo" else policy
    theirs, *rewards = CPOTrainer.cpo_loss(settings, given.annotated, given.synthetic)
    objective = SimPO(BETA, 0.8) if loss_type == "simpo" else CPO(BETA, 0.0)
    losses, metrics = objective(policy)
    torch.testing.assert_close(losses, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(metrics["rewards/annotated"], rewards[0], rtol=1e-12, atol=1e-12)


def test_orpo_trainer_has_the_same_odds(numbers):
    from trl.experimental.orpo import ORPOTrainer

    _, _, policy, _ = numbers
    means = policy.per_token()
    settings = SimpleNamespace(accelerator=CPU, beta=BETA)
    ratio, reward, *_ = ORPOTrainer.odds_ratio_loss(settings, means.annotated, means.synthetic)
    losses, metrics = ORPO(BETA)(policy)
    theirs = -means.annotated - ratio  # loss = NLL less the term, as its trainer adds them up
    torch.testing.assert_close(losses, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(metrics["rewards/annotated"], reward.double(), rtol=1e-6, atol=0)


def test_tpo_is_the_dpo_of_y_and_y0_without_a_reference_beside_sft():
    """TRL's TPO takes a triplet of texts; its pair is ours of y' over y0, its gold response y."""
    roles = {"annotated": [-3.0, -9.0], "synthetic": [-5.0, -8.0], "proto": [-4.0, -7.0]}
    policy = Logps(**{role: torch.tensor(row).double() for role, row in roles.items()})
    pair = SPIN(BETA)(
        Logps(annotated=policy.synthetic, synthetic=policy.proto),
        Logps(annotated=policy.synthetic * 0, synthetic=policy.proto * 0),
    )[0]
    losses, _ = TPO(BETA, 1.0)(policy)
    torch.testing.assert_close(losses, pair - policy.annotated, rtol=1e-12, atol=1e-12)
