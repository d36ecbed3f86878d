import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toy import PREPROCESS, Loop, make_guard, photo_of, served, toy_embedder

from fsl_jax.embedder import Embedder
from fsl_jax.search.index import Index
from fsl_jax.search.searching import Searcher
from fsl_jax.serving.batching import Batcher, Full
from fsl_jax.serving.catalogue import Catalogue, Question, fastest
from fsl_jax.serving.limits import decode
from fsl_jax.serving.metrics import Meter


class Held:
    """Doubles numbers, and notes what came at once; waits until it is let go."""

    def __init__(self):
        self.batches, self.go_on, self.entered = [], threading.Event(), threading.Event()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.set()
        self.go_on.wait(20)
        if "poison" in items:
            raise RuntimeError("poison")
        return [2 * item for item in items]


def batcher(run, *, waiting=100):
    made = Batcher(run, largest=8, waiting=waiting, meter=Meter())
    made.start()
    return made


async def gathered(make, items, held):
    first = asyncio.ensure_future(make(items[0]))
    while not held.entered.is_set():
        await asyncio.sleep(0.001)
    rest = [asyncio.ensure_future(make(item)) for item in items[1:]]
    await asyncio.sleep(0.05)
    held.go_on.set()
    return await asyncio.gather(first, *rest, return_exceptions=True)


def test_what_comes_meanwhile_shares_a_batch_of_at_most_eight():
    held = Held()
    made = batcher(held)
    assert asyncio.run(gathered(made, list(range(12)), held)) == [2 * i for i in range(12)]
    assert held.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]
    made.stop()


def test_what_fails_fails_for_its_batch_only():
    held = Held()
    made = batcher(held)
    first, *failed = asyncio.run(gathered(made, [1, "poison", 3], held))
    assert first == 2
    assert [str(error) for error in failed] == ["poison", "poison"]
    assert asyncio.run(made(5)) == 10
    made.stop()


def test_a_full_queue_refuses_at_once():
    async def asked():
        first = asyncio.ensure_future(made(1))
        while not held.entered.is_set():
            await asyncio.sleep(0.001)
        waiting = [asyncio.ensure_future(made(item)) for item in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(Full):
            await made(4)
        held.go_on.set()
        return await asyncio.gather(first, *waiting)

    held = Held()
    made = batcher(held, waiting=2)
    assert asyncio.run(asked()) == [2, 4, 6]
    made.stop()


def test_who_does_not_wait_any_more_is_left_out():
    async def asked():
        first = asyncio.ensure_future(made(1))
        while not held.entered.is_set():
            await asyncio.sleep(0.001)
        gone, stays = asyncio.ensure_future(made(2)), asyncio.ensure_future(made(3))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        held.go_on.set()
        return await asyncio.gather(first, stays)

    held = Held()
    made = batcher(held)
    assert asyncio.run(asked()) == [2, 6]
    assert held.batches == [[1], [3]]
    made.stop()


def test_a_stop_finishes_what_waits():
    held = Held()
    held.go_on.set()
    made = batcher(held)

    async def asked():
        futures = [asyncio.ensure_future(made(i)) for i in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(made.stop)
        return await asyncio.gather(*futures)

    assert asyncio.run(asked()) == [0, 2, 4, 6, 8]


def counting():
    """Returns the toy model, and the blocks that it was called with."""
    toy, shapes = toy_embedder(), []

    def embed(images):
        shapes.append(images.shape[0])
        return toy.embed(images)

    return Embedder(embed, toy.preprocess, toy.digest), toy.embed, shapes


def test_nothing_is_compiled_after_the_start_whatever_comes(shop):
    embedder, jitted, shapes = counting()
    with served(shop, embedder=embedder, max_concurrent=64) as client, ThreadPoolExecutor(13) as pool:
        service = client.guard.app.state.service
        # Whatever was measured: of these, 1 to 3 photos go one by one, and more share a block.
        service.catalogue.blocks, service._batcher.largest = fastest({1: 1.0, 8: 3.5}), 8
        compiled = jitted._cache_size()
        del shapes[:]
        for crowd in (1, 2, 3, 5, 8, 13):
            answers = list(pool.map(lambda i: client.search(photo_of("red bag"), k=1 + 7 * i), range(crowd)))
            assert {answer.status_code for answer in answers} == {200}
        service.catalogue.answer([Question(decode(photo_of("red bag"), PREPROCESS), "search", 3)] * 7)
        assert jitted._cache_size() == compiled == 2
    assert set(shapes) == {1, 8}


@pytest.mark.parametrize(
    "seconds", [{1: 1.0, 8: 1.1}, {1: 1.0, 8: 4.5}, {1: 1.0, 8: 20.0}, {1: 3, 2: 4, 5: 7}]
)
def test_blocks_hold_all_photos_and_no_other_choice_is_faster(seconds):
    for count, blocks in fastest(seconds).items():
        choices = [
            each
            for number in range(1, count + 1)
            for each in itertools.combinations_with_replacement(seconds, number)
            if sum(each) >= count
        ]
        assert sum(blocks) >= count
        assert sum(seconds[size] for size in blocks) == min(
            sum(seconds[size] for size in each) for each in choices
        )


def test_company_in_a_block_does_not_change_an_answer(shop):
    guard = make_guard(shop)
    catalogue = guard.app.state.service.catalogue
    questions = [
        Question(decode(photo_of(label), PREPROCESS), "search", 3)
        for label in ("red bag", "blue cap", "green boot")
    ]
    together = catalogue.answer(questions)
    alone = [catalogue.answer([question])[0] for question in questions]
    for one, other in zip(together, alone, strict=True):
        assert [hit.id for hit in one.hits] == [hit.id for hit in other.hits]
        np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-6)
        assert len(one.hits) == 3


def test_a_replaced_engine_is_closed_and_never_asked_again(tmp_path):
    from toy import make_index

    class Closing(Loop):
        closed = False

        def close(self):
            self.closed = True

        def search(self, queries, k):
            assert not self.closed
            return super().search(queries, k)

    engines, embedder = [], toy_embedder()

    def renew(index):
        engines.append(Closing(index.embeddings))
        return Searcher(index, embedder, engines[-1])

    make_index(tmp_path / "index", photos=1)
    catalogue = Catalogue(renew(Index.open(tmp_path / "index")), renew=renew, k=5, meter=Meter())
    question = Question(decode(photo_of("red bag"), PREPROCESS), "search", 3)
    catalogue.answer([question])
    catalogue.remove(labels=["blue bag"])
    assert not engines[0].closed  # the model's thread might be using it
    catalogue.answer([question])
    assert [engine.closed for engine in engines] == [True, False]
