"""Prompt-lookup speculation on and off: decode speed of texts that repeat what they were given and of texts that do not, as one stream and
as several at once. Runs with and without are interleaved in one service, and their answers compared.

usage: speculation.py [--model GGUF] [--threads 2] [--tp 1] [--pp 1] [--streams 1,4] [--tokens 128] [--runs 3] [--set KEY=VALUE ...]
"""
import argparse
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import api
import service

PARAGRAPH = ("The lighthouse at Cape Morrow was built in 1871 by a crew of forty masons, who carried every block of granite up the cliff by hand. "
             "Its lamp could be seen from nineteen miles away, and for sixty years the same family kept it burning. When the last keeper retired in "
             "1931 the lamp was replaced by an electric one, and the house was sold to a painter who filled its rooms with pictures of the sea.")
CODE = """def total_price(items, tax_rate):
    total = 0
    for item in items:
        price = item["price"] * item["quantity"]
        if item["discount"] > 0:
            price = price - price * item["discount"]
        total = total + price
    return total + total * tax_rate
"""
CASES = {
    "repeat a paragraph": dict(messages=[{"role": "user", "content": f"Repeat this paragraph word for word:\n\n{PARAGRAPH}"}], temperature=0),
    "edit code": dict(messages=[{"role": "user", "content": f"Write this function again with a comment at its top:\n\n```python\n{CODE}```"}], temperature=0),
    "summarise with quotes": dict(messages=[{"role": "user", "content": f"Summarise this text and quote its most important sentences:\n\n{PARAGRAPH}"}],
                                  temperature=0),
    "plain story, greedy": dict(prompt="The train left the station an hour late, and Marta", temperature=0),
    "plain story, sampled": dict(prompt="The train left the station an hour late, and Marta", temperature=1.0),
}


def measure(connection, case, body, streams, speculation, tag, tokens):
    """Tokens per second of all streams together while they decode, and (drafted, accepted)."""
    names = [f"{tag}.{i}" for i in range(streams)]
    for i, name in enumerate(names):
        connection.submit(name, max_tokens=tokens, ignore_eos=True, seed=i, speculation=speculation, **body)
    answers = connection.finish(names)
    for answer in answers:
        assert answer.error is None, (case, answer.error)
    timings = [answer.done["timings"] for answer in answers]
    rate = sum(t["decode_tokens_per_s"] for t in timings)
    return rate, [answer.token_ids for answer in answers], sum(t["tokens_drafted"] for t in timings), sum(t["drafts_accepted"] for t in timings)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=service.SMOL, type=pathlib.Path)
    parser.add_argument("--threads", default=2, type=int, help="of each rank")
    parser.add_argument("--tp", default=1, type=int)
    parser.add_argument("--pp", default=1, type=int)
    parser.add_argument("--streams", default="1,4")
    parser.add_argument("--tokens", default=128, type=int)
    parser.add_argument("--runs", default=3, type=int)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    flags = parser.parse_args()
    settings = {"model.path": flags.model, "worker.threads": flags.threads, "layout.tp": flags.tp, "layout.pp": flags.pp,
                **dict(item.split("=", 1) for item in flags.set)}
    with service.Service(settings) as running:
        connection = api.Connection(running.endpoint)
        connection.ask("warm", prompt="x", max_tokens=4)
        print("| text | streams | off, tokens/s | on, tokens/s | ratio | drafted | accepted |\n|---|---|---|---|---|---|---|")
        for streams in map(int, flags.streams.split(",")):
            for case, body in CASES.items():
                rates = {"off": [], "prompt_lookup": []}
                for run in range(flags.runs):
                    answers = []
                    for speculation in rates:
                        tag = f"{case.replace(' ', '_').replace(',', '')}.{streams}.{run}.{speculation}"
                        rate, ids, drafted, accepted = measure(connection, case, body, streams, speculation, tag, flags.tokens)
                        rates[speculation].append(rate)
                        answers.append(ids)
                    assert answers[0] == answers[1], f"{case}: speculation changed an answer"
                off, on = (statistics.median(r) for r in rates.values())
                share = f"{accepted} ({100 * accepted / drafted:.0f} %)" if drafted else "0"
                print(f"| {case} | {streams} | {off:.0f} | {on:.0f} | {on / off:.2f} | {drafted} | {share} |", flush=True)
        connection.close()


if __name__ == "__main__":
    main()
