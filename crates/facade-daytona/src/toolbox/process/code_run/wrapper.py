"""Runs the code on standard input, and tells the server of its charts.

Both outputs of the code go to standard output, in their exact order. What was
standard error becomes the channel to the server: one line per chart, "chart:"
and JSON with the fields of the SDKs' charts. A chart is told of when the code
shows it, or at the end of the code when it was not shown.
"""


def _main():
    import builtins
    import linecache
    import os
    import sys
    import types

    code = sys.stdin.buffer.read().decode("utf-8", "replace")
    channel = os.dup(2)
    os.dup2(1, 2)
    os.environ.setdefault("MPLBACKEND", "Agg")
    charts = _Charts(channel)
    sys.meta_path.insert(0, charts)

    # The code sees no trace of this file: a main module of its own, and
    # tracebacks that begin with its own frames and show its lines.
    name = "<code>"
    module = types.ModuleType("__main__")
    module.__builtins__ = builtins
    sys.modules["__main__"] = module
    linecache.cache[name] = (len(code), None, code.splitlines(True), name)
    try:
        exec(compile(code, name, "exec", dont_inherit=True), module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_frame.f_code.co_filename != name:
            traceback = traceback.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        sys.exit(1)


class _Charts:
    """Finds charts: hooks into the import of pyplot."""

    # What all charts of one run may take, in bytes of JSON.
    BYTES_MAX = 15 << 20

    def __init__(self, channel):
        self.channel = channel
        self.bytes_left = self.BYTES_MAX

    def find_spec(self, name, path=None, target=None):
        """Lets the other finders find pyplot, and changes it when it is loaded."""
        # Imports of this function's own come here too.
        if name != "matplotlib.pyplot":
            return None
        import importlib.util
        import sys

        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_change(module):
                load(module)
                self.change(module)

            spec.loader.exec_module = load_and_change
        return spec

    def change(self, pyplot):
        import atexit
        import functools

        from matplotlib.axes import Axes

        def show(*_args, **_kwargs):
            self.tell_all()

        pyplot.show = functools.wraps(pyplot.show)(show)
        draw_boxes = Axes.bxp

        @functools.wraps(draw_boxes)
        def remember_boxes(axes, stats, *args, **kwargs):
            stats = list(stats)
            boxes = getattr(axes, "_boxes_drawn", [])
            axes._boxes_drawn = boxes + stats
            return draw_boxes(axes, stats, *args, **kwargs)

        Axes.bxp = remember_boxes
        # Now that pyplot is loaded: its own end, which closes all figures, comes after.
        atexit.register(self.tell_all)

    def tell_all(self):
        """Tells of all open figures, and closes them."""
        import sys

        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        for number in pyplot.get_fignums():
            self.tell(pyplot.figure(number))
        pyplot.close("all")

    def tell(self, figure):
        import json
        import os

        try:
            # Drawn first: labels of ticks exist only then.
            png = _png(figure)
            try:
                chart = _describe(figure)
            except Exception:
                chart = {"type": "unknown"}
            chart["png"] = png
            line = b"chart:" + json.dumps(chart, allow_nan=False).encode() + b"\n"
        except Exception:
            # It cannot be drawn; the code's own way to draw it would tell why.
            return
        if len(line) > self.bytes_left:
            return
        self.bytes_left -= len(line)
        while line:
            line = line[os.write(self.channel, line):]


def _png(figure):
    import base64
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()


def _describe(figure):
    """The chart in a figure, or the charts."""
    charts = [
        _describe_axes(axes)
        for axes in figure.axes
        if axes.has_data() and axes.get_label() != "<colorbar>"
    ]
    if not charts:
        return {"type": "unknown"}
    if len(charts) == 1:
        return charts[0]
    title = getattr(figure, "_suptitle", None)
    return {
        "type": "composite_chart",
        "title": title.get_text() if title is not None else "",
        "elements": charts,
    }


def _describe_axes(axes):
    kind, elements = _kind_and_elements(axes)
    chart = {
        "type": kind,
        "title": axes.get_title(),
        "x_label": axes.get_xlabel(),
        "y_label": axes.get_ylabel(),
        "elements": elements,
    }
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        ticks = [
            (_number(tick.get_loc()), tick.label1.get_text()) for tick in axis.get_major_ticks()
        ]
        ticks = [tick for tick in ticks if tick[0] is not None]
        chart[name + "_ticks"] = [position for position, _ in ticks]
        chart[name + "_tick_labels"] = [label for _, label in ticks]
        chart[name + "_scale"] = _scale(axis)
    return chart


def _kind_and_elements(axes):
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer
    from matplotlib.patches import Wedge

    boxes = getattr(axes, "_boxes_drawn", [])
    if boxes:
        return "box_and_whisker", [_box(box, index) for index, box in enumerate(boxes)]
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    if wedges:
        return "pie", [_slice(wedge) for wedge in wedges]
    bars = [group for group in axes.containers if isinstance(group, BarContainer)]
    if bars:
        return "bar", [bar for group in bars for bar in _bars(axes, group)]
    clouds = [cloud for cloud in axes.collections if isinstance(cloud, PathCollection)]
    if clouds:
        return "scatter", [_points(cloud, cloud.get_offsets()) for cloud in clouds]
    if axes.lines:
        lines = [
            _points(line, zip(line.get_xdata(orig=False), line.get_ydata(orig=False)))
            for line in axes.lines
        ]
        return "line", lines
    return "unknown", []


def _points(artist, points):
    points = [[_number(x), _number(y)] for x, y in points]
    return {
        "label": _label(artist),
        "points": [point for point in points if None not in point],
    }


def _bars(axes, group):
    is_vertical = getattr(group, "orientation", None) != "horizontal"
    axis = axes.xaxis if is_vertical else axes.yaxis
    for bar in group.patches:
        if is_vertical:
            position, value = bar.get_x() + bar.get_width() / 2, bar.get_height()
        else:
            position, value = bar.get_y() + bar.get_height() / 2, bar.get_width()
        yield {
            "label": _tick_label(axis, position),
            # Text, as the SDKs expect it.
            "value": format(float(value), "g"),
            "group": _label(group),
        }


def _tick_label(axis, position):
    """The label of the tick at a position: of the nearest one where ticks are
    names, as bars may stand beside each other; else the position itself."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    names = (StrCategoryFormatter, FixedFormatter, FuncFormatter)
    ticks = [
        (abs(tick.get_loc() - position), tick.label1.get_text())
        for tick in axis.get_major_ticks()
    ]
    if ticks and isinstance(axis.get_major_formatter(), names):
        return min(ticks)[1]
    return format(float(position), "g")


def _slice(wedge):
    return {
        "label": _label(wedge),
        "angle": abs(_number(wedge.theta2) - _number(wedge.theta1)),
        "radius": _number(wedge.r),
    }


def _box(box, index):
    element = {
        "label": str(box.get("label", index + 1)),
        "min": _number(box.get("whislo")),
        "first_quartile": _number(box.get("q1")),
        "median": _number(box.get("med")),
        "third_quartile": _number(box.get("q3")),
        "max": _number(box.get("whishi")),
        "outliers": [_number(value) for value in box.get("fliers", ())],
    }
    element["outliers"] = [value for value in element["outliers"] if value is not None]
    return {name: value for name, value in element.items() if value is not None}


def _scale(axis):
    get_converter = getattr(axis, "get_converter", lambda: getattr(axis, "converter", None))
    converter = type(get_converter()).__name__
    if "Date" in converter:
        return "datetime"
    if "Category" in converter:
        return "categorical"
    return axis.get_scale()


def _label(artist):
    """The label the code gave; those that matplotlib makes up begin with "_"."""
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def _number(value):
    """A number that JSON knows, or None."""
    import math

    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_main()
