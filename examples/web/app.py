"""A search page: results as you type.

    pip install "vecidx[web]"          # starlette and uvicorn
    python examples/web/app.py         # then open http://127.0.0.1:8000
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from wordnet import Dictionary  # noqa: E402

from vecidx.stores import Compare  # noqa: E402

try:
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ImportError as exc:
    raise SystemExit(f"this example needs starlette and uvicorn: pip install 'vecidx[web]' ({exc})"
                     ) from exc


def make_app(dictionary):
    """The application over a dictionary."""

    def find(text, has, k):
        start = time.perf_counter()
        where = Compare("itext", (), has, column="content") if has else None
        hits = dictionary.search(text, k, where)
        return {"milliseconds": 1000 * (time.perf_counter() - start), "of": len(dictionary.texts),
                "hits": [dict(zip(("words", "gloss"), split(hit.document.content)),
                              likeness=1 - hit.distance) for hit in hits]}

    async def search(request):
        text = request.query_params.get("q", "")[:200]
        has = request.query_params.get("has", "")[:100]
        return JSONResponse(await asyncio.to_thread(find, text, has, 12))

    return Starlette(routes=[Route("/search", search),
                             Mount("/", StaticFiles(directory=HERE / "static", html=True))])


def split(text):
    words, _, gloss = text.partition(":")
    return words.strip(), gloss.strip()


def main(argv=None):
    import uvicorn

    parser = argparse.ArgumentParser(description="A search page over a dictionary.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args(argv)
    uvicorn.run(make_app(Dictionary()), host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
