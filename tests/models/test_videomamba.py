"""VideoMamba for clips: timm's contract, frames, and errors that say what is wrong."""

import pytest
import timm
import torch

from vimzoo.compat import videomamba
from vimzoo.models import VideoMamba
from vimzoo.models.videomamba import VIDEOMAMBA_CLIP_FACTS, frames_of
from vimzoo.models.videomamba.pretraining import VideoMambaPretraining

SMALL = dict(img_size=32, embed_dim=16, depth=2, d_state=4, num_classes=5)


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))


def test_contract(clips: torch.Tensor) -> None:
    """Classes, features, groups, checkpointing and initialisation, on one model."""
    model = timm.create_model("test_videomamba", num_classes=7, drop_path_rate=0.1).eval()
    with torch.no_grad():
        features = model.forward_features(clips)
        torch.testing.assert_close(model.forward_head(features), model(clips))
        final, maps = model.forward_intermediates(clips)
        torch.testing.assert_close(final, features)
        assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 4, 4)] * 3
        (last,) = model.forward_intermediates(
            clips, [2], norm=True, output_fmt="NHWC", intermediates_only=True
        )
        torch.testing.assert_close(last.flatten(1, 3), features[:, 1:])
    model.set_grad_checkpointing()
    model.train()
    model(clips).square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert model.temporal_pos_embed.grad.any()
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert {n for names in groups.values() for n in names} == {n for n, _ in model.named_parameters()}
    assert "temporal_pos_embed" in model.no_weight_decay()


def test_after_the_meta_device_a_model_is_as_initialised() -> None:
    with torch.device("meta"):
        model = timm.create_model("test_videomamba")
    model.to_empty(device="cpu").init_weights()
    assert not model.temporal_pos_embed.any() and not model.cls_token.any()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_a_frame_alone_is_an_image() -> None:
    """With a temporal embedding of 0 a clip of one frame gives the logits of the image model."""
    torch.manual_seed(0)
    model = VideoMamba(1, **SMALL).eval()
    options = dict(cls_token="head", divide_out=False)
    image = timm.create_model("vim_tiny_patch16_224", **SMALL, **options).eval()
    state = {n: t for n, t in model.state_dict().items() if n != "temporal_pos_embed"}
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    image.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images.unsqueeze(2)), image(images))


def test_frames_and_sizes_change(clips: torch.Tensor) -> None:
    model = VideoMamba(4, 2, **SMALL)
    with torch.no_grad():
        model.temporal_pos_embed.copy_(torch.arange(2.0).view(1, 2, 1).expand(1, 2, 16))
    model.set_input_size(48, num_frames=8)
    assert model.num_frames == 8 and model.patch_embed.grid_size == (3, 3)
    torch.testing.assert_close(model.temporal_pos_embed[0, :, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert model(torch.randn(1, 3, 8, 48, 48)).shape == (1, 5)
    model.set_input_size(64, 32)
    assert model.patch_embed.proj.weight.shape[2:] == (2, 32, 32)
    assert model(clips.repeat(1, 1, 2, 1, 1)).shape == (2, 5)


def test_a_file_says_how_many_frames_it_is_for() -> None:
    state = VideoMamba(6, 2, **SMALL).state_dict()
    assert frames_of(state) == 6 and frames_of({}) is None


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 64, 64), "expected a batch of clips"),
        ((1, 1, 4, 64, 64), "expected 3 channels"),
        ((1, 3, 5, 64, 64), r"expected 4 frames \(num_frames\), got 5"),
        ((1, 3, 4, 15, 64), "a height of at least 16"),
    ],
)
def test_clips_of_another_kind_are_refused(shape: tuple[int, ...], message: str) -> None:
    model = timm.create_model("test_videomamba")
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="num_frames: expected at least one tubelet, 2 frames, got 1"):
        VideoMamba(1, 2, **SMALL)
    with pytest.raises(ValueError, match="tubelet_size"):
        VideoMamba(1, 0, **SMALL)
    with pytest.raises(ValueError, match="dynamic_img_pad"):
        VideoMamba(dynamic_img_pad=True, **SMALL)


def test_a_mask_that_hides_other_numbers_of_tokens_is_refused() -> None:
    """Theirs mixes the samples where the numbers happen to add up."""
    options = {key: value for key, value in SMALL.items() if key != "num_classes"}
    model = VideoMambaPretraining(num_frames=2, output_dim=8, **options)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 1:3], mask[1, 1:5] = True, True
    clips = torch.randn(2, 3, 2, 32, 32)
    with pytest.raises(ValueError, match=r"as many visible tokens in every clip, got \[7, 5\]"):
        model(clips, mask)
    with pytest.raises(ValueError, match=r"mask: expected \(2, 9\) of bool"):
        model(clips, mask[:, 1:])
    mask[0, 3:5] = True
    assert model(clips, mask).shape == (1, 2, 5, 8)
    with pytest.raises(ValueError, match="layers: expected at most 2, got 3"):
        VideoMambaPretraining(layers=3, **options)


def test_features_of_several_blocks_are_normalised() -> None:
    """All but those of the last block, which are the stream that its mixer was added to only if asked."""
    torch.manual_seed(0)
    options = {**SMALL, "depth": 3}
    options.pop("num_classes")
    model = VideoMambaPretraining(num_frames=1, output_dim=8, layers=2, interval=2, **options).eval()
    clips = torch.randn(1, 3, 1, 32, 32)
    tokens, features = model.encode(clips)
    (first,) = model.forward_intermediates(clips, [0], norm=True, output_fmt="NLC", intermediates_only=True)
    torch.testing.assert_close(features[0, :, 1:], first)
    assert not torch.allclose(features[1], tokens)
    model.last_output = True
    torch.testing.assert_close(model.norm(model.encode(clips)[1][1], None)[0], tokens)


def test_published_files_by_tag() -> None:
    """Every combination of the authors' table of models, by the names of their files."""
    found = {w.file for facts in VIDEOMAMBA_CLIP_FACTS.values() for w in facts.trained.values()}
    assert len(found) == 20 + 12 + 8 + 8
    facts = VIDEOMAMBA_CLIP_FACTS["videomamba_middle_patch16_f64_384"]
    assert facts.trained["k400_mask_ft"].top1 == 85.0
    assert facts.trained["k400_mask_ft"].file == "videomamba_m16_k400_mask_ft_f64_res224to384.pth"
    assert timm.get_pretrained_cfg("videomamba_small_patch16_f32_224.coin").num_classes == 180


def test_the_authors_registered_functions() -> None:
    with torch.device("meta"):
        model = videomamba.video_sm.videomamba_small(num_classes=400, num_frames=16)
    assert model.temporal_pos_embedding.shape == (1, 16, 384) and model.get_num_layers() == 24
    for build in (
        videomamba.video_pretrain.videomamba_middle_pretrain,
        videomamba.image_distill.videomamba_base_distill,
    ):
        with pytest.raises(ValueError, match="pretrained: expected False"):
            build(pretrained=True)
    with pytest.raises(ValueError, match="pool_type"):
        videomamba.video_mm.PretrainVideoMamba(pool_type="max", depth=1)
    with pytest.raises(TypeError, match="unexpected keyword arguments bimamba_type"):
        videomamba.video_sm.VisionMamba(bimamba_type="v2", depth=1)
