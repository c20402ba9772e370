"""Cut the repository's sample from the WordNet embeddings.

    python tools/make_sample.py wordnet-minilm-117k-384-angular.hdf5 \
        [examples/data/wordnet-sample.npz]

A thin random sample of a dictionary has no neighbourhoods: the nearest row to
"camel" would be some other animal, if any.  So the rows are taken in clumps:
the nearest rows of each held-out query, and of each word of SEEDS.  Vectors
are stored as int8 with one scale a row (cosine to the original: above 0.999)
and texts as one UTF-8 blob with offsets, so the file needs no pickle and
compresses.  The same input gives the same bytes.
"""

import sys
from pathlib import Path

import numpy as np

N_QUERIES = 300
ROWS_A_SEED = 45
MAX_ROWS = 12_000

# Queries that the demo shows, then words whose surroundings are fun to walk.
DEMO_QUERIES = ["camel", "seismography", "metalhead", "magnet", "nephology", "casserole",
                "uncle", "psychologist", "shears", "skirl", "goldfield", "geopolitical",
                "lycanthropy", "suspicious", "talaria", "moo"]
SEEDS = ["guitar", "volcano", "democracy", "telescope", "coffee", "elephant", "algorithm",
         "poem", "galaxy", "bicycle", "bread", "thunderstorm", "violin", "vaccine", "castle",
         "chess", "dolphin", "earthquake", "friendship", "glacier", "happiness", "island",
         "jazz", "kitchen", "lighthouse", "mathematician", "novel", "ocean", "penguin",
         "queen", "rainbow", "sailboat", "tiger", "umbrella", "vineyard", "whale", "zebra"]


def decode(texts):
    return [text.decode("utf-8") for text in texts]


def lemmas(text):
    return [word.strip() for word in text.split(":")[0].split(",")]


def first_senses(words, texts):
    """Row of the first text that each word heads, in the order of the words."""
    first = {}
    for row, text in enumerate(texts):
        for lemma in lemmas(text):
            first.setdefault(lemma, row)
    return [first[word] for word in words if word in first]


def nearest(vectors, seeds, n):
    """Indices of the n rows of `vectors` nearest by cosine to each seed vector."""
    out = np.empty((len(seeds), n), np.int64)
    for i, seed in enumerate(seeds):
        similarity = vectors @ seed
        top = np.argpartition(-similarity, n)[:n]
        out[i] = top[np.argsort(-similarity[top], kind="stable")]
    return out


def quantize(vectors):
    """(int8 rows, one float32 scale a row)"""
    scales = np.abs(vectors).max(axis=1) / 127
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def pack(texts):
    """(one UTF-8 blob as uint8, n + 1 offsets)"""
    encoded = [text.encode("utf-8") for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def main(source, target):
    import h5py

    with h5py.File(source, "r") as file:
        train = file["train"][:].astype(np.float32)
        test = file["test"][:].astype(np.float32)
        train_texts = decode(file["train_text"][:])
        test_texts = decode(file["test_text"][:])
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    test /= np.linalg.norm(test, axis=1, keepdims=True)

    shown = first_senses(DEMO_QUERIES, test_texts)
    queries = np.array(shown + [i for i in range(len(test)) if i not in set(shown)])[:N_QUERIES]
    seeds = np.concatenate([test[queries[:len(shown)]],
                            train[first_senses(SEEDS, train_texts)],
                            test[queries[len(shown):]]])
    clumps = nearest(train, seeds, ROWS_A_SEED)
    # By rank, then by seed; dict keeps the first of equals.  So the cap drops
    # the farthest rows of every clump alike.
    rows = np.sort(np.array(list(dict.fromkeys(clumps.T.ravel()))[:MAX_ROWS]))

    codes, scales = quantize(train[rows])
    query_codes, query_scales = quantize(test[queries])
    back = codes * scales[:, None]
    cosine = np.einsum("ij,ij->i", back, train[rows]) / np.linalg.norm(back, axis=1)
    assert cosine.min() > 0.999, cosine.min()
    texts, offsets = pack([train_texts[row] for row in rows])
    query_texts, query_offsets = pack([test_texts[query] for query in queries])
    np.savez_compressed(
        target, rows=codes, scales=scales, texts=texts, text_offsets=offsets,
        query_rows=query_codes, query_scales=query_scales,
        query_texts=query_texts, query_text_offsets=query_offsets)
    size = Path(target).stat().st_size
    assert size <= 10_000_000, size
    print(f"{target}: {len(rows)} rows, {len(queries)} queries, {size / 1e6:.2f} MB, "
          f"lowest cosine to the original {cosine.min():.5f}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1],
         sys.argv[2] if len(sys.argv) == 3 else
         Path(__file__).resolve().parents[1] / "examples/data/wordnet-sample.npz")
