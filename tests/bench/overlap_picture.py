"""The README's picture of what ladder residual hides: two layers of one decode step, standard above ladder on the same time scale, as
two ranks on two hosts traced it (worker.trace; the hosts and the emulated link are those of tests/bench/overlap.py). Needs root to measure.

usage: overlap_picture.py [--streams 8] [--latency-us 3500] [--layers 2,3] [--data docs/data/overlap.json] [--svg docs/overlap.svg] [--draw-only]
       overlap_picture.py --traces FOLDER --data FILE --svg FILE [--streams 8] [--layers 2,3]

The second form draws what a rank on a GPU traced (tests/gpu/overlap_bench --traces FOLDER: standard/rank-0.json, ladder/rank-0.json), by the device's
own times, and measures nothing.

Of each schedule the decode step of median length is drawn. In the data a time is in microseconds from the first work of the first layer drawn.
The latency is about what overlap.py finds to make communication as long as compute for 8 streams.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

import overlap

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import hosts

ROOT = pathlib.Path(__file__).resolve().parents[2]
DRAWN = ["standard", "ladder"]
TOKENS = 24


def steps_of(folder, streams):
    """[[events of one decode step], ...] of the ranks, in the order of the steps: {"rank": [...]}."""
    ranks = {}
    for path in sorted(pathlib.Path(folder).glob("rank-*.json")):
        rank, events, open_flights = int(path.stem.split("-")[1]), [], {}
        for event in json.loads(path.read_text()):
            kind = event.get("ph")
            if kind == "X":
                events.append({"name": event["name"], "track": event["tid"], "layer": event["args"].get("layer", -1), "rows": event["args"].get("rows", 0),
                               "begin": event["ts"], "end": event["ts"] + event["dur"]})
            elif kind == "b":
                open_flights[event["id"]] = event
            elif kind == "e":
                begin = open_flights.pop(event["id"])
                events.append({"name": event["name"], "track": event["tid"], "layer": begin["args"]["layer"], "rows": 0, "begin": begin["ts"],
                               "end": event["ts"]})
        if any(event["track"] == DEVICE_COMPUTE for event in events):
            events = [{**event, "track": OF_DEVICE[event["track"]]} for event in events if event["track"] in OF_DEVICE]
        events.sort(key=lambda event: event["begin"])
        steps = [event for event in events if event["track"] == STEP]
        ranks[rank] = [[event for event in events if event["track"] != STEP and step["begin"] <= event["begin"] <= step["end"]]
                       for step in steps if step["rows"] == streams]
    return ranks


STEP, COMPUTE, WAIT, IN_FLIGHT, DEVICE_COMPUTE, DEVICE_WAIT, DEVICE_LINK = range(1, 8)
# A rank's tracks where it computes on a device, as those of a rank that does not.
OF_DEVICE = {STEP: STEP, DEVICE_COMPUTE: COMPUTE, DEVICE_WAIT: WAIT, DEVICE_LINK: IN_FLIGHT}


def parts_of(step):
    """Attention and MLP of each layer as pieces of work, waits, and all-reduces, of one rank's step."""
    work, waits, flights = [], [], []
    layer, kind = -1, None
    for event in step:
        if event["track"] == WAIT:
            waits.append(event)
        elif event["track"] == IN_FLIGHT and event["name"] in ("all_reduce", "transfer"):
            flights.append(event)
        elif event["track"] == COMPUTE and event["layer"] >= 0:
            if event["name"] == "attention_norm":
                layer, kind = event["layer"], "attention"
            elif event["name"] == "mlp_norm":
                layer, kind = event["layer"], "mlp"
            last = work[-1] if work else None
            if last and (last["layer"], last["kind"]) == (layer, kind) and not any(last["end"] <= wait["begin"] < event["begin"] for wait in waits[-2:]):
                last["end"] = event["end"]
            elif kind:
                work.append({"layer": layer, "kind": kind, "begin": event["begin"], "end": event["end"]})
    return work, waits, flights


def cut(step, layers):
    """What of one rank's step belongs to `layers`: begin of the first layer's work to the begin of the work behind the last one."""
    work, waits, flights = parts_of(step)
    begin = min(piece["begin"] for piece in work if piece["layer"] == layers[0])
    end = min(piece["begin"] for piece in work if piece["layer"] == layers[-1] + 1)
    return {"begin": begin, "end": end,
            "work": [piece for piece in work if begin <= piece["begin"] < end],
            "waits": [{"begin": wait["begin"], "end": wait["end"]} for wait in waits if begin <= wait["begin"] < end],
            "flights": [{"posted": flight["begin"], "done": flight["end"]} for flight in flights
                        if begin <= flight["begin"] < end or begin < flight["end"] <= end]}


def window(folder, streams, layers):
    ranks = steps_of(folder, streams)
    count = min(len(steps) for steps in ranks.values())
    cuts = [[cut(steps[i], layers) for steps in ranks.values()] for i in range(2, count - 2)]
    lengths = [max(one["end"] for one in both) - min(one["begin"] for one in both) for both in cuts]
    quartiles = ", ".join(f"{part / 1000:.1f}" for part in statistics.quantiles(lengths, n=4))
    print(f"{len(cuts)} steps, ms of the layers drawn: {quartiles}", file=sys.stderr)
    both = cuts[lengths.index(statistics.median_low(lengths))]
    zero = min(one["begin"] for one in both)

    def shifted(value):
        if isinstance(value, dict):
            return {key: round(inner - zero, 1) if isinstance(inner, float) else shifted(inner) for key, inner in value.items()}
        return [shifted(inner) for inner in value] if isinstance(value, list) else value
    return [shifted(one) for one in both]


def measure(agent, flags):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "config.json").write_text(json.dumps(overlap.MODEL))
        for name in DRAWN:
            pathlib.Path(folder, name).mkdir()
            overlap.SCHEDULES[name]["worker.trace"] = pathlib.Path(folder, name)
        with overlap.Bench(agent, folder, hosts.Link.of_this_test(), DRAWN, TOKENS) as bench:
            bench.link.set(latency_us=flags.latency_us)
            for name in DRAWN * 3:
                bench.step(name, flags.streams)
        model = {key: overlap.MODEL[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")}
        data = {"streams": flags.streams, "latency_us": flags.latency_us, "model": model, "layers": flags.layers,
                "schedules": {name: window(pathlib.Path(folder, name), flags.streams, flags.layers) for name in DRAWN}}
    flags.data.write_text(json.dumps(data) + "\n")


def read_traces(flags):
    layers = 1 + max(event["args"].get("layer", -1) for event in json.loads((flags.traces / DRAWN[0] / "rank-0.json").read_text()))
    data = {"streams": flags.streams, "model": {"num_hidden_layers": layers}, "layers": flags.layers, "device": True,
            "schedules": {name: window(flags.traces / name, flags.streams, flags.layers) for name in DRAWN}}
    flags.data.write_text(json.dumps(data) + "\n")


COLOURS = {"attention": "#2f6fb3", "mlp": "#5b9f8f", "wait": "#e0653a", "flight": "#cdbfe3", "flight_line": "#7d5fb2", "text": "#1f2933", "soft": "#65717d",
           "lane": "#f3f5f7", "grid": "#dfe4e8"}
LEFT, WIDTH, RIGHT = 118, 860, 22
LANE, BAR = 30, 20


def box(x, y, width, height, fill, more=""):
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.8):.1f}" height="{height}" fill="{fill}" {more}/>'


def label(x, y, text, more=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{text}</text>'


def draw_rank(one, y, scale):
    """Two lanes: what the rank computes and where it waits; what is on its way."""
    out = [box(LEFT, y, WIDTH, LANE, COLOURS["lane"]), box(LEFT, y + LANE + 2, WIDTH, LANE, COLOURS["lane"])]
    top = y + (LANE - BAR) / 2
    for piece in one["work"]:
        width = (piece["end"] - piece["begin"]) * scale
        out.append(box(LEFT + piece["begin"] * scale, top, width, BAR, COLOURS[piece["kind"]], 'rx="2"'))
        names = ("Attention", "Attn", "A") if piece["kind"] == "attention" else ("MLP", "M")
        text = next((name for name in [f"{name} {piece['layer']}" for name in names] + [""] if len(name) * 6.2 < width - 4), "")
        out.append(label(LEFT + (piece["begin"] + piece["end"]) / 2 * scale, top + 14.5, text, 'fill="#ffffff" font-size="11" text-anchor="middle"'))
    for wait in one["waits"]:
        if wait["end"] - wait["begin"] > 8:
            width = (wait["end"] - wait["begin"]) * scale
            out.append(box(LEFT + wait["begin"] * scale, top, width, BAR, "url(#waited)", f'stroke="{COLOURS["wait"]}" rx="2"'))
    for i, flight in enumerate(one["flights"]):
        begin, end = max(flight["posted"], 0), min(flight["done"], WIDTH / scale)
        row = y + LANE + 5 + (i % 2) * 13
        line = f'stroke="{COLOURS["flight_line"]}" stroke-width="0.8" rx="2"'
        out.append(box(LEFT + begin * scale, row, (end - begin) * scale, 11, COLOURS["flight"], line))
        if flight["posted"] >= 0:
            out.append(f'<circle cx="{LEFT + begin * scale:.1f}" cy="{row + 5.5:.1f}" r="2.6" fill="{COLOURS["flight_line"]}"/>')
    return out


def draw_schedule(name, ranks, y, scale, data):
    exposed = statistics.mean(sum(wait["end"] - wait["begin"] for wait in one["waits"]) / (one["end"] - one["begin"]) for one in ranks)
    took = max(one["end"] for one in ranks)
    count = len(data["layers"])
    title = {"standard": "Standard", "ladder": "Ladder residual"}[name]
    out = [label(LEFT, y + 14, f'<tspan font-weight="600" font-size="15">{title}</tspan>'
                               f'<tspan dx="10" fill="{COLOURS["soft"]}">{count} layers in {took / 1000:.1f} ms, {100 * exposed:.0f} % of it waiting</tspan>')]
    y += 24
    for rank, one in enumerate(ranks):
        soft = f'fill="{COLOURS["soft"]}" font-size="11" text-anchor="end"'
        who = "device" if data.get("device") else f"host {rank + 1}"
        out += [label(LEFT - 12, y + 15, f"{who} computes", soft), label(LEFT - 12, y + LANE + 22, "all-reduces", soft)]
        out += draw_rank(one, y, scale)
        y += 2 * LANE + 10
    end = LEFT + took * scale
    out.append(f'<line x1="{end:.1f}" y1="{y - len(ranks) * (2 * LANE + 10)}" x2="{end:.1f}" y2="{y - 6}" stroke="{COLOURS["text"]}" stroke-dasharray="3 2"/>')
    return out, y


def legend(y):
    out, x = [], LEFT
    for colour, stroke, text in ((COLOURS["attention"], "none", "attention"), (COLOURS["mlp"], "none", "MLP"),
                                 ("url(#waited)", COLOURS["wait"], "waits for an all-reduce"),
                                 (COLOURS["flight"], COLOURS["flight_line"], "all-reduce: posted (dot) until it has arrived")):
        out += [box(x, y - 10, 16, 12, colour, f'stroke="{stroke}" rx="2"'), label(x + 22, y, text, f'fill="{COLOURS["soft"]}"')]
        x += 40 + 6.6 * len(text)
    return out


def draw(data, path):
    longest = max(one["end"] for ranks in data["schedules"].values() for one in ranks)
    scale = (WIDTH - 4) / longest
    parts, y = [], 34
    first, last = data["layers"][0], data["layers"][-1]
    where, link = (("one GPU, its partner emulated", "the link takes as long as the compute") if data.get("device")
                   else ("two hosts", f'latency of the link {data["latency_us"]} us'))
    parts.append(label(LEFT, y, f'One decode step of {data["streams"]} streams, tp = 2 on {where}: layers {first} to {last} of '
                                f'{data["model"]["num_hidden_layers"]} as traced; {link}', f'fill="{COLOURS["soft"]}"'))
    y += 14
    for name in DRAWN:
        more, y = draw_schedule(name, data["schedules"][name], y, scale, data)
        parts += more
        y += 14
    step = next(step for step in (500, 1000, 2000, 5000, 10000) if longest / step <= 12)
    bottom = y - 12
    soft = COLOURS["soft"]
    parts.append(f'<line x1="{LEFT}" y1="{bottom}" x2="{LEFT + WIDTH}" y2="{bottom}" stroke="{soft}"/>')
    for t in range(0, int(longest) + 1, step):
        x = LEFT + t * scale
        parts += [f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="{soft}"/>',
                  label(x, bottom + 18, f"{t / 1000:g} ms", f'fill="{soft}" font-size="11" text-anchor="middle"')]
    y = bottom + 44
    parts += legend(y)
    width, height = LEFT + WIDTH + RIGHT, y + 20
    stripes = ('<defs><pattern id="waited" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
               f'<rect width="6" height="6" fill="#fdf0ea"/><rect width="2.2" height="6" fill="{COLOURS["wait"]}"/></pattern></defs>')
    card = f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#ffffff" stroke="{COLOURS["grid"]}"/>'
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
                    'font-family="-apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="12.5" '
                    f'fill="{COLOURS["text"]}">{stripes}{card}' + "\n".join(parts) + "</svg>\n")


def parse(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default=8, type=int)
    parser.add_argument("--latency-us", default=3500, type=int)
    parser.add_argument("--layers", default=[2, 3], type=lambda text: [int(layer) for layer in text.split(",")])
    parser.add_argument("--data", default=ROOT / "docs/data/overlap.json", type=pathlib.Path)
    parser.add_argument("--svg", default=ROOT / "docs/overlap.svg", type=pathlib.Path)
    parser.add_argument("--traces", type=pathlib.Path, help="folder with standard/rank-0.json and ladder/rank-0.json of a GPU")
    parser.add_argument("--draw-only", action="store_true", help="from the data of an earlier run")
    return parser.parse_args(words)


def inside(agent):
    flags = parse(json.loads(os.environ["ECHELON_PICTURE_FLAGS"]))
    measure(agent, flags)
    draw(json.loads(flags.data.read_text()), flags.svg)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    elif parse(sys.argv[1:]).draw_only or parse(sys.argv[1:]).traces:
        chosen = parse(sys.argv[1:])
        if chosen.traces:
            read_traces(chosen)
        draw(json.loads(chosen.data.read_text()), chosen.svg)
    else:
        os.environ["ECHELON_PICTURE_FLAGS"] = json.dumps(sys.argv[1:])
        hosts.run_on_first(2, inside, __file__, link={})
