"""Scoring in shards: the same to the byte as in one piece, whoever helps, fails, falls silent or is killed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from annotator import jobs
from annotator.errors import JobCancelled
from annotator.models import Job, Project, ScoringShard
from ml_worker import encoding, nets, sharding
from ml_worker.encoders.pca_pixels import Encoder
from ml_worker.images import DecodedPool, Selection
from ml_worker.predict import predict

N, BLOCK, SHARD = 37, 4, 8  # five shards, the last of five images
ROWS = np.random.default_rng(3).permutation(40)[:N]


class Power(BaseException):
    """It was cut: nothing is tidied up."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    settings.SHARD_IMAGES = SHARD
    monkeypatch.setattr(sharding, "BLOCK", BLOCK)
    monkeypatch.setattr(sharding, "WAIT_S", 0.0)
    monkeypatch.setattr(sharding, "LOOK_S", 0.0)


@pytest.fixture
def decoded(tmp_path: Path) -> DecodedPool:
    made = DecodedPool(tmp_path / "artifacts" / "decoded-8", 8)
    made.append(np.arange(40), np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    return made


@pytest.fixture
def run(project: Project) -> jobs.Run:
    job = jobs.claim(jobs.enqueue(project, Job.Kind.EMBED).pk)
    assert job is not None
    return jobs.Run(job)


def network(seed: int = 0) -> nets.Network:
    torch.manual_seed(seed)
    return nets.build("quick", 3, 8, mean=torch.full((3,), 0.5), std=torch.full((3,), 0.2)).eval()


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total == N


def score(run: jobs.Run, decoded: DecodedPool, progress: Any = quiet, net: nets.Network | None = None) -> Any:
    work = decoded.folder.parent / "work"
    return sharding.network_scores(run, net or network(), decoded, ROWS, device="cpu", work=work, progress=progress)


def in_one_piece(decoded: DecodedPool, net: nets.Network | None = None) -> Any:
    said = predict(net or network(), decoded.images(), ROWS, device="cpu", batch=BLOCK)
    return said.features, said.logits


def same(scores: Any, wanted: Any) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(scores, wanted, strict=True))


@contextmanager
def elsewhere(name: str = "elsewhere:1") -> Iterator[None]:
    """What happens in here happens in another process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_me", lambda: name)
        patch.setattr(sharding, "_scoring", threading.Lock())
        yield


def once(happens: Callable[[], None], at: int = 0) -> Callable[[int, int], None]:
    """As the progress of a scoring: let this happen when so many images are done."""
    waiting = [happens]

    def progress(done: int, total: int) -> None:
        if done >= at and waiting:
            waiting.pop()()

    return progress


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first image of each shard that is computed, in order."""
    firsts: list[int] = []
    by_network = sharding._by_network

    def counting(*given: Any) -> sharding.Compute:
        compute = by_network(*given)

        def counted(first: int, end: int, tick: sharding.Tick) -> Any:
            firsts.append(first)
            return compute(first, end, tick)

        return counted

    monkeypatch.setattr(sharding, "_by_network", counting)
    return firsts


def opened(run: jobs.Run, decoded: DecodedPool) -> list[ScoringShard]:
    """The shards of a scoring whose job is about to take its first one."""
    with pytest.raises(Power), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "_work_through", lambda *given: cut_power())
        patch.setattr("django.db.models.query.QuerySet.delete", lambda shards: (0, {}))
        score(run, decoded)
    return list(ScoringShard.objects.filter(job=run.job))


def cut_power() -> None:
    raise Power


def silence(shard: ScoringShard) -> None:
    long_ago = timezone.now() - timedelta(seconds=django_settings.JOB_STALE_S + 1)
    assert ScoringShard.objects.filter(pk=shard.pk, heartbeat_at__isnull=False).update(heartbeat_at=long_ago)


# --- what comes of it


def test_one_worker_scores_alone_what_it_would_in_one_piece(run: jobs.Run, decoded: DecodedPool) -> None:
    told: list[int] = []
    assert same(score(run, decoded, lambda done, total: told.append(done)), in_one_piece(decoded))
    assert (told[0], told[-1]) == (0, N)
    assert told == sorted(told)
    assert not ScoringShard.objects.exists()
    assert f"scored {N} images in 5 shards by 1 worker" in Job.objects.get(pk=run.job.pk).log_tail


def test_a_helper_opens_the_network_and_computes_the_same(run: jobs.Run, decoded: DecodedPool) -> None:
    def help_out() -> None:
        with elsewhere():
            sharding.assist(run.job.pk)

    assert same(score(run, decoded, once(help_out)), in_one_piece(decoded))
    assert "by 1 worker" in Job.objects.get(pk=run.job.pk).log_tail, "the helper was faster"
    assert same(score(run, decoded, net=network(1)), in_one_piece(decoded, network(1)))


def test_a_helper_takes_what_the_job_has_not_taken_yet(
    run: jobs.Run, decoded: DecodedPool, computed: list[int]
) -> None:
    def help_out() -> None:
        assert ScoringShard.objects.filter(heartbeat_at__isnull=False).count() == 1, "the job holds one itself"
        with elsewhere():
            sharding.assist(run.job.pk)

    assert same(score(run, decoded, once(help_out, at=SHARD + 1)), in_one_piece(decoded))
    assert computed == [0, 8, 16, 24, 32]
    assert "by 2 workers" in Job.objects.get(pk=run.job.pk).log_tail


def test_an_encoder_is_shared_like_a_network(run: jobs.Run, decoded: DecodedPool, tmp_path: Path) -> None:
    pool = Selection(decoded.images(), ROWS)
    encoder = Encoder(components=4, whitening=0.5, seed=0)
    encoder.fit(np.asarray(pool))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BLOCK", BLOCK)
        (tmp_path / "alone").mkdir()
        wanted = np.array(encoding.embed_here(encoder, pool, tmp_path / "alone", lambda share, said: None))
    folder = tmp_path / "artifacts" / "work"

    def help_out() -> None:
        with elsewhere():
            sharding.assist(run.job.pk)

    told = once(help_out)
    embeddings = sharding.embed(
        run, "pca_pixels", decoded, encoder, pool, folder, lambda share, said: told(round(share * N), N)
    )
    assert embeddings.tobytes() == wanted.tobytes()
    assert [path.name for path in folder.iterdir()] == ["embeddings.f32"], "the disk holds it once"
    again = sharding.embed(run, "pca_pixels", decoded, encoder, pool, folder, lambda share, said: pytest.fail(said))
    assert again.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("inline", [False, True])
def test_a_small_pool_and_a_job_run_where_it_was_asked_for_are_scored_as_ever(
    run: jobs.Run, decoded: DecodedPool, settings: Any, inline: bool
) -> None:
    settings.JOBS_INLINE = inline
    settings.SHARD_IMAGES = SHARD if inline else 2 * SHARD
    score(run, decoded)
    assert not (decoded.folder.parent / "work").exists()


def test_a_shard_is_whole_blocks(settings: Any) -> None:
    settings.SHARD_IMAGES = 11
    assert sharding._shard_size() == 2 * BLOCK


# --- who does what


def test_helpers_are_rung_for_while_there_are_workers_that_do_not_help(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[Any] = []
    monkeypatch.setattr(jobs, "workers_alive", lambda: 3)
    monkeypatch.setattr(jobs, "ring", lambda *given: rung.append(given))
    opened(run, decoded)
    sharding._ring(run.job)
    assert rung == [(run.job.pk, sharding.SCORE_SHARDS)] * 4
    with elsewhere():
        assert sharding._claim(run.job.pk)
    sharding._ring(run.job)
    assert len(rung) == 6, "one of them helps by now"
    score(run, decoded)
    assert len(rung) == 10


def test_a_block_that_takes_long_does_not_keep_helpers_away(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def beating(beat: Callable[[], None], what: str) -> Iterator[None]:
        beat()
        yield

    rung: list[Any] = []
    monkeypatch.setattr(jobs, "beating", beating)
    monkeypatch.setattr(jobs, "workers_alive", lambda: 2)
    monkeypatch.setattr(jobs, "ring", lambda *given: rung.append(given))
    monkeypatch.setattr(sharding, "RING_S", 0.0)
    score(run, decoded)
    assert len(rung) == 2 * (5 + 5), "before each shard, and in the middle of each"


def test_a_process_that_scores_does_not_help_as_well(run: jobs.Run, decoded: DecodedPool, computed: list[int]) -> None:
    score(run, decoded, once(lambda: sharding.assist(run.job.pk), at=1))
    assert computed == [0, 8, 16, 24, 32], "it would have done the last ones before the end of the first"
    assert "by 1 worker" in Job.objects.get(pk=run.job.pk).log_tail


def test_a_helper_without_the_hardware_of_the_job_leaves_it_alone(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = opened(run, decoded)
    written = Path(django_settings.ARTIFACT_ROOT) / shards[0].folder / "scoring.json"
    written.write_text(written.read_text().replace('"cpu"', '"cuda"'))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sharding.assist(run.job.pk)
    assert not ScoringShard.objects.filter(attempt__gt=0).exists()


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_hold_the_same_shard(run: jobs.Run, decoded: DecodedPool) -> None:
    shards = opened(run, decoded)
    found: list[int] = []
    ready = threading.Barrier(4)

    def take() -> None:
        ready.wait()
        while shard := sharding._claim(run.job.pk):
            found.append(shard.number)
        connection.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [shard.number for shard in shards]


# --- what goes wrong


def test_a_shard_whose_worker_went_silent_is_taken_again(
    run: jobs.Run, decoded: DecodedPool, computed: list[int]
) -> None:
    def die_holding_one() -> None:
        with elsewhere():
            shard = sharding._claim(run.job.pk)
            assert shard is not None and shard.number == 0
            silence(shard)

    assert same(score(run, decoded, once(die_holding_one)), in_one_piece(decoded))
    assert computed == [0, 8, 16, 24, 32]


def test_the_job_waits_for_a_shard_that_is_worked_on(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[ScoringShard] = []

    def hold() -> None:
        with elsewhere():
            shard = sharding._claim(run.job.pk)
            assert shard is not None
            held.append(shard)

    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            silence(held[0])

    monkeypatch.setattr(sharding.time, "sleep", sleep)
    assert same(score(run, decoded, once(hold)), in_one_piece(decoded))
    assert len(waits) == 3


def test_a_shard_that_kills_every_worker_fails_the_job(run: jobs.Run, decoded: DecodedPool) -> None:
    def die_of_it() -> None:
        for _ in range(sharding.MAX_ATTEMPTS):
            with elsewhere():
                shard = sharding._claim(run.job.pk)
                assert shard is not None and shard.number == 0
                silence(shard)

    sentence = r"images 0 to 7 of job .* could not be scored in 3 attempts: the worker stopped each time"
    with pytest.raises(sharding.ScoringFailed, match=sentence):
        score(run, decoded, once(die_of_it))
    assert not ScoringShard.objects.exists()


def failing(monkeypatch: pytest.MonkeyPatch, where: str, times: int) -> list[int]:
    """Images from 8 on cannot be scored by the process of this name, so often."""
    tried: list[int] = []
    by_network = sharding._by_network

    def sick(*given: Any) -> sharding.Compute:
        compute = by_network(*given)

        def computing(first: int, end: int, tick: sharding.Tick) -> Any:
            if first == 8 and sharding._me().startswith(where) and len(tried) < times:
                tried.append(first)
                raise ValueError("the disk is full")
            return compute(first, end, tick)

        return computing

    monkeypatch.setattr(sharding, "_by_network", sick)
    return tried


def test_what_fails_at_a_helper_is_left_to_the_job(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, "elsewhere", 100)

    def help_out() -> None:
        for _ in range(10):
            with elsewhere():
                sharding.assist(run.job.pk)

    assert same(score(run, decoded, once(help_out)), in_one_piece(decoded))
    assert tried == [8], "and tried there once"


def test_what_fails_by_chance_is_tried_again(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, "", 2)
    assert same(score(run, decoded), in_one_piece(decoded))
    assert tried == [8, 8]


def test_what_always_fails_fails_the_job_with_its_reason(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, "", 100)
    with pytest.raises(sharding.ScoringFailed, match=r"images 8 to 15 .* 3 attempts: ValueError: the disk is full"):
        score(run, decoded)
    assert len(tried) == sharding.MAX_ATTEMPTS
    assert not ScoringShard.objects.exists()


def test_the_attempt_after_a_kill_goes_on_from_the_shards_that_are_done(
    run: jobs.Run, decoded: DecodedPool, computed: list[int]
) -> None:
    with pytest.raises(Power):
        score(run, decoded, once(cut_power, at=2 * SHARD + 1))
    assert computed == [0, 8, 16]
    computed.clear()
    assert same(score(run, decoded), in_one_piece(decoded))
    assert computed == [16, 24, 32]


def test_the_scores_of_another_network_are_never_mixed_in(
    run: jobs.Run, decoded: DecodedPool, computed: list[int]
) -> None:
    score(run, decoded)
    computed.clear()
    assert same(score(run, decoded, net=network(1)), in_one_piece(decoded, network(1)))
    assert len(computed) == 5


def test_half_a_file_is_no_result(run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Power), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding.os, "fsync", lambda descriptor: cut_power())
        score(run, decoded)
    assert list((decoded.folder.parent / "work").glob("scoring-*/shard-*.part"))
    assert same(score(run, decoded), in_one_piece(decoded))


def test_cancelling_stops_the_job_and_its_helpers(run: jobs.Run, decoded: DecodedPool, computed: list[int]) -> None:
    def cancelled(done: int, total: int) -> None:
        if done > SHARD:
            jobs.cancel(run.job)
            run.report(0.5, force=True)

    with pytest.raises(JobCancelled):
        score(run, decoded, cancelled)
    assert not ScoringShard.objects.exists()
    assert computed == [0, 8]


def test_a_helper_in_the_middle_of_a_shard_notices_that_the_job_was_cancelled(
    run: jobs.Run, decoded: DecodedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(run, decoded)
    look, looks = sharding._look, []

    def looking(*given: Any) -> None:
        looks.append(given)
        jobs.cancel(run.job)
        look(*given)

    monkeypatch.setattr(sharding, "_look", looking)
    sharding.assist(run.job.pk)
    assert len(looks) == 1
    assert not ScoringShard.objects.filter(is_done=True).exists()
    assert not ScoringShard.objects.filter(heartbeat_at__isnull=False).exists()
    sharding.assist(run.job.pk)
    assert len(looks) == 1, "nor does it begin with one"


def test_a_helper_that_comes_when_all_was_tidied_up_says_so_and_goes(
    run: jobs.Run, decoded: DecodedPool, caplog: pytest.LogCaptureFixture
) -> None:
    shards = opened(run, decoded)
    (Path(django_settings.ARTIFACT_ROOT) / shards[0].folder / "scoring.json").unlink()
    sharding.assist(run.job.pk)
    assert "cannot help to score" in caplog.text
