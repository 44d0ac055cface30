"""The fusion that knows where to trust whom."""

import torch
from small_models import CLASSES, clip_of

from accel.config import parse_model
from accel.models import EvidenceFusion, ScoreFusion, ScoreMap, build_model
from accel.models.images import subtract_mean


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        ScoreMap(torch.randn(2, CLASSES, 4, 6, generator=generator), stride=16),
        ScoreMap(torch.randn(2, CLASSES, 8, 12, generator=generator), stride=8),
    )


def test_it_starts_as_the_published_fusion():
    reference, update = maps()
    frames = subtract_mean(clip_of((64, 96), frames=2, batch=2).flatten(0, 1)).chunk(2)
    plain, weighing = ScoreFusion(CLASSES), EvidenceFusion(CLASSES)
    expected = plain(reference, update)
    for given in ((), frames):
        fused = weighing(reference, update, *given)
        torch.testing.assert_close(fused.scores, expected.scores)
        assert fused.stride == expected.stride == 8


def test_it_learns_to_trust_the_branch_that_is_sure():
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (1, 16, 16))
    right = 6 * torch.nn.functional.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float() + 1
    wrong = torch.randn(right.shape)  # unsure, and often wrong
    left = torch.arange(16) < 8
    old, new = (torch.where(side, right, wrong) for side in (left, ~left))
    fusion = EvidenceFusion(CLASSES)
    optimizer = torch.optim.Adam(fusion.gate.parameters(), 0.1)
    for _ in range(30):
        fused = fusion(ScoreMap(old, stride=8), ScoreMap(new, stride=8))
        loss = torch.nn.functional.cross_entropy(fused.scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = fusion._weighted(torch.ones_like(old), torch.ones_like(new), None, None)
    assert torch.allclose(weights[0] + weights[1], torch.full_like(old, 2.0))
    weighted_old, _ = fusion._weighted(old, new, None, None)
    trust = (weighted_old / old).mean(1)[0]
    assert trust[:, :8].mean() > 1.2 and trust[:, 8:].mean() < 0.8


@torch.inference_mode()
def test_a_model_has_it_if_its_configuration_says_so():
    branch = {"name": "pyramid", "encoder": "tu-test_resnet", "channels": 8, "stride": 8}
    values = {"name": "accel", "num_classes": CLASSES, "reference": branch, "update": branch, "flow": {"name": "dis"}}
    model = build_model(parse_model(values | {"fusion": "evidence"}, "test")).eval()
    assert isinstance(model.fusion, EvidenceFusion)
    clip = clip_of((64, 96), frames=2)
    _, state = model.key_frame(clip[:, 0])
    model.fusion.gate.weight.data.fill_(1.0)
    with_change = model.next_frame(clip[:, 1], state)[0].scores
    without = model.next_frame(clip[:, 0], state)[0].scores
    assert with_change.shape == without.shape == (1, CLASSES, 8, 12)
