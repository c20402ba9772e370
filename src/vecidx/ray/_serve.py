"""serve() and connect(): searching all shards as if they were one index."""

import asyncio
import functools
import math
import threading
import time
import uuid
import weakref

import numpy as np

import vecidx
from vecidx._iterate import Neighbours
from vecidx.errors import IndexFormatError, VecidxError
from vecidx.ray._framework import NAMESPACE, cause_of, need_ray, one_line
from vecidx.ray._manifest import as_manifest, shard_of
from vecidx.ray._request import Parcels, Request, as_sendable
from vecidx.ray._scatter import Found, FoundInRange, Health, Scatter, merge, merge_ranges
from vecidx.ray.errors import ReplicaNotReady, ShardUnavailable

POLL = 1.0                   # seconds between a client's looks at the directory
GRACE = 3.0                  # seconds that replicas taken out of the table still answer
RETABLE = 1.0                # seconds a search that failed waits for a newer table


def serve(manifest, *, replicas=1, num_cpus=1, local_cache=None, mmap=True, updates=None,
          name=None, detached=False, timeout=600.0):
    """Start actors that answer searches over the shards of a build.

    Parameters
    ----------
    manifest : Manifest, str or os.PathLike
        What :func:`build` returned, or its folder or URL.
    replicas : int
        Actors that hold each shard, on different nodes as far as there are.
    num_cpus : float
        Cores that each takes, and threads it searches a batch with.
    local_cache : str, optional
        A folder on every node's own disk, where shard files are copied once; for
        a URL, a folder for temporary files unless given.  Without it, the
        manifest's folder is mapped as it is.  Copies are not removed.
    mmap : True or "vectors"
        As of :func:`vecidx.load`: with ``"vectors"``, all but the vectors is read into
        memory, for shards larger than that.
    updates : str, optional
        A folder that every node reaches: the index then takes :meth:`~ShardedIndex.add`
        and :meth:`~ShardedIndex.delete`, and keeps there what they change.  Shards are
        then in memory, not mapped.
    name : str, optional
        For :func:`connect`.
    detached : bool
        Go on when this program ends, until :meth:`~ShardedIndex.close`; needs a name.
    timeout : float
        Seconds to wait until all have loaded.

    Returns
    -------
    ShardedIndex

    Raises
    ------
    ShardUnavailable
        A replica could not load; the text says which and why.  Nothing is left running.
    """
    ray = need_ray()
    from vecidx.ray import _service
    manifest = as_manifest(manifest)
    _check_service(replicas, num_cpus, mmap, name, detached)
    service = name or uuid.uuid4().hex[:12]
    if updates is not None:
        from vecidx.ray._writable import check_updates
        updates = check_updates(updates, manifest)
    table = _service.Table(service, time.time_ns(), 0, manifest, replicas, num_cpus, local_cache,
                           mmap, updates, detached)
    try:
        directory = _service.Directory.options(
            name=_service.directory_name(service), namespace=NAMESPACE,
            lifetime="detached" if detached else None).remote(table)
        ray.get(directory.table.remote())
    except ValueError as err:
        raise ValueError(f"name: a service {service!r} is running; vecidx.ray.connect({service!r}) "
                         "finds it") from err
    actors = {}
    try:
        actors = _service.start_replicas(table, 0, replicas)
        _service.wait_ready(actors, timeout)
    except BaseException:
        _service.kill([*actors.values(), directory])
        raise
    return ShardedIndex(table, directory, actors)


def connect(name):
    """The service that :func:`serve` started under a name, from any program of the cluster.

    Raises
    ------
    ValueError
        There is none.
    """
    ray = need_ray()
    from vecidx.ray import _service
    try:
        directory = ray.get_actor(_service.directory_name(name), NAMESPACE)
    except ValueError as err:
        raise ValueError(f"name: no service {name!r} is running; serve(..., name={name!r}) "
                         "starts it") from err
    return ShardedIndex(ray.get(directory.table.remote()), directory)


def _check_service(replicas, num_cpus, mmap, name, detached):
    _check_replicas(replicas)
    if mmap is not True and mmap != "vectors":
        raise ValueError(f"mmap: expected True or 'vectors', got {mmap!r}")
    if not 0 < num_cpus:
        raise ValueError(f"num_cpus: expected more than 0, got {num_cpus}")
    if name is not None and (not isinstance(name, str) or not name or "/" in name):
        raise ValueError(f"name: expected a word without '/', got {name!r}")
    if detached and name is None:
        raise ValueError("detached: needs a name, by which connect() finds the service again")


def _check_replicas(replicas):
    if isinstance(replicas, bool) or not isinstance(replicas, (int, np.integer)):
        raise TypeError(f"replicas: expected an integer, got {type(replicas).__name__}")
    if not 1 <= replicas <= 64:
        raise ValueError(f"replicas: expected 1 to 64, got {replicas}")


class ShardedIndex:
    """The shards of a service, searched as one index.  Made by :func:`serve` and :func:`connect`.

    Any number of threads and tasks may use it; it can be pickled to others of
    the cluster.
    """

    def __init__(self, table, directory, owned=None):
        self._directory = directory
        # Actors that are not detached live as long as the handles they came with.
        self._owned = owned                  # None: found by connect()
        self._health = Health()
        self._parcels = Parcels()
        self._control = threading.Lock()     # one scale or swap of this client at a time
        self._closed = threading.Event()
        self._take(table)
        threading.Thread(target=_watch, args=(weakref.ref(self), self._closed),
                         name="vecidx table", daemon=True).start()

    def _take(self, table):
        """Use a table from now on; searches under way end with theirs."""
        self._route = _Route(table)

    # ---- searching ------------------------------------------------------------

    def search(self, queries, k=10, *, timeout=10.0, hedge=0.25, partial="raise", **options):
        """The stored vectors nearest to each query, of all shards.

        Parameters
        ----------
        queries, k, **options
            As for :meth:`vecidx.Index.search`: `ef`, `exact`, `filter`, `max_distance`
            and `recall`.  Filters are of the ids of all shards; a callable gets those
            of a shard at a time.  `recall` goes by what each shard measured
            (``build(..., tune=True)``) and holds for its own neighbours, so for all.
        timeout : float
            Seconds for all of it.
        hedge : float
            Seconds after which a replica that has not answered is given company:
            the shard's next replica is asked too, and the first answer counts.
        partial : {"raise", "allow"}
            What to do if a shard does not answer: raise, or give the nearest of
            the others.

        Returns
        -------
        ids, distances
            As from one index.  The pair also has ``missing_shards``, a tuple.

        Raises
        ------
        ShardUnavailable
            Under ``"raise"``, naming the shards and what each replica said.
        ValueError, TypeError
            An argument that an index would not take.
        """
        return self._asked(self._request("search", queries, {"k": k}, options, timeout, hedge,
                                         partial))

    def range_search(self, queries, radius, *, timeout=10.0, hedge=0.25, partial="raise",
                     **options):
        """All stored vectors within a distance of each query, of all shards.

        Parameters
        ----------
        queries, radius, **options
            As for :meth:`vecidx.Index.range_search`: `ef`, `exact` and `filter`.
        timeout, hedge, partial
            As for :meth:`search`.

        Returns
        -------
        lims, ids, distances
            As from one index, with ``missing_shards``.
        """
        return self._asked(self._request("range_search", queries, {"radius": radius}, options,
                                         timeout, hedge, partial))

    def iterate(self, query, batch=10, *, ef=None, filter=None, exact=False, timeout=10.0,
                hedge=0.25):
        """The neighbours of one query, from near to far, a batch at a time.

        As :meth:`vecidx.Index.iterate`; every few turns are a search of all shards,
        for twice as many neighbours as the one before.  `timeout` and `hedge` are for
        each of these.
        """
        self._route.template.iterate(query, batch, ef=ef)        # it looks at the arguments
        query = np.array(query).reshape(-1)
        filter = None if filter is None else as_sendable(filter, 1)

        def search(k, ef, exact):
            return self.search(query, k, ef=ef, exact=exact, filter=filter, timeout=timeout,
                               hedge=hedge)

        return Neighbours(search, batch, ef or 0, exact)

    async def asearch(self, queries, k=10, *, timeout=10.0, hedge=0.25, partial="raise",
                      **options):
        """:meth:`search` for asyncio."""
        loop = asyncio.get_running_loop()
        request = await loop.run_in_executor(None, functools.partial(
            self._request, "search", queries, {"k": k}, options, timeout, hedge, partial))
        deadline = time.monotonic() + request.timeout
        while True:
            route = self._route
            scatter = await self._scatter_async(route, request, deadline)
            if not scatter.missing() or not await loop.run_in_executor(
                    None, self._renewed, route, deadline):
                return self._gather(scatter, request)

    def _request(self, method, queries, arguments, options, timeout, hedge, partial):
        if self._closed.is_set():
            raise VecidxError("the service is closed")
        return Request(method, self._route.template, self._parcels, queries, arguments, options,
                       timeout, hedge, partial)

    def _asked(self, request):
        """The answers of all shards."""
        deadline = time.monotonic() + request.timeout
        while True:
            route = self._route
            scatter = self._scatter_sync(route, request, deadline)
            if not scatter.missing() or not self._renewed(route, deadline):
                return self._gather(scatter, request)

    def _scatter_sync(self, route, request, deadline):
        import ray
        scatter = Scatter(route.replicas, self._health, request.hedge, time.monotonic())
        pending = {}

        def send(pairs):
            while pairs:
                shard, key = pairs.pop()
                try:
                    pending[route.ask(key, request)] = (shard, key)
                except Exception as exc:                 # its actor is gone for good
                    pairs += scatter.failed(shard, key, one_line(exc), time.monotonic())

        try:
            send(scatter.begin(time.monotonic()))
            while scatter.open:
                now = time.monotonic()
                if now >= deadline:
                    break
                wake = min(deadline, scatter.wake_at() or math.inf)
                done, _ = ray.wait(list(pending), num_returns=1, timeout=max(0.0, wake - now))
                for ref in done:
                    shard, key = pending.pop(ref)
                    try:
                        scatter.answered(shard, key, ray.get(ref), time.monotonic())
                    except ray.exceptions.RayError as err:
                        send(scatter.failed(shard, key, _reason(err), time.monotonic()))
                send(scatter.overdue(time.monotonic()))
        finally:
            scatter.give_up(f"no answer within {request.timeout:g} s")
        return scatter

    async def _scatter_async(self, route, request, deadline):
        import ray
        scatter = Scatter(route.replicas, self._health, request.hedge, time.monotonic())
        pending = {}

        def send(pairs):
            while pairs:
                shard, key = pairs.pop()
                try:
                    future = asyncio.wrap_future(route.ask(key, request).future())
                    pending[future] = (shard, key)
                except Exception as exc:
                    pairs += scatter.failed(shard, key, one_line(exc), time.monotonic())

        try:
            send(scatter.begin(time.monotonic()))
            while scatter.open:
                now = time.monotonic()
                if now >= deadline:
                    break
                wake = min(deadline, scatter.wake_at() or math.inf)
                done, _ = await asyncio.wait(pending, timeout=max(0.0, wake - now),
                                             return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    shard, key = pending.pop(future)
                    try:
                        scatter.answered(shard, key, future.result(), time.monotonic())
                    except ray.exceptions.RayError as err:
                        send(scatter.failed(shard, key, _reason(err), time.monotonic()))
                send(scatter.overdue(time.monotonic()))
        finally:
            scatter.give_up(f"no answer within {request.timeout:g} s")
            for future in pending:                       # late answers are nobody's
                future.add_done_callback(lambda f: f.cancelled() or f.exception())
        return scatter

    def _renewed(self, route, deadline):
        """Has the table changed since `route`?  Asked when a search found shards missing."""
        if route is not self._route:
            return True
        wait = min(RETABLE, deadline - time.monotonic())
        return wait > 0 and self._refresh(wait) and route is not self._route

    def _refresh(self, timeout):
        """Take the directory's table; False where that is not to be had."""
        import ray
        route = self._route
        try:
            table = ray.get(self._directory.table.remote(route.table.version), timeout=timeout)
        except ray.exceptions.RayError:
            return False
        if table is not None and self._route is route:
            self._take(table)
        return True

    def _gather(self, scatter, request):
        missing = scatter.missing()
        if missing and request.partial == "raise":
            from vecidx.ray._service import describe
            raise ShardUnavailable(
                f"{len(missing)} of {len(self._route.replicas)} shards did not answer "
                f"(partial='allow' does without): {describe(missing)}", missing)
        parts = [scatter.answers[shard] for shard in sorted(scatter.answers)]
        if request.method == "range_search":
            return FoundInRange(*merge_ranges(parts, request.empty), sorted(missing))
        return Found(*merge(parts, request.arguments["k"], request.empty), sorted(missing))

    # ---- changing what serves ---------------------------------------------------

    def scale(self, replicas, *, timeout=600.0):
        """Have so many replicas of every shard.  Searches go on, and none fails for it."""
        _check_replicas(replicas)
        from vecidx.ray import _service
        with self._control:
            table = self._current_table()
            if replicas > table.replicas:
                actors = _service.start_replicas(table, table.replicas, replicas)
                try:
                    _service.wait_ready(actors, timeout)
                    self._publish(table, table.next(replicas=replicas))
                except BaseException:
                    _service.kill(actors.values())
                    raise
                self._own(actors)
            elif replicas < table.replicas:
                self._publish(table, table.next(replicas=replicas))
                time.sleep(GRACE)
                _service.kill_named(table.service, [
                    (table.generation, shard, replica) for shard in range(table.n_shards)
                    for replica in range(replicas, table.replicas)])

    def swap(self, manifest, *, timeout=600.0):
        """Serve another build of the same dim and metric instead.

        Its replicas are started beside the present ones, so for a while both take
        their memory and cores; once all have loaded, searches go to them, and the
        older ones end some seconds later.  No search fails for it, and none mixes
        the two.

        Raises
        ------
        ShardUnavailable
            A new replica could not load; the older build goes on serving.
        """
        from vecidx.ray import _service
        manifest = as_manifest(manifest)
        with self._control:
            table = self._current_table()
            if table.updates is not None:
                raise ValueError("swap: this service takes writes, which the other build lacks; "
                                 "close it and serve the other with updates of its own")
            old = table.manifest
            if (manifest.dim, manifest.metric) != (old.dim, old.metric):
                raise ValueError(f"manifest: expected dim {old.dim} and metric {old.metric!r}, got "
                                 f"{manifest.dim} and {manifest.metric!r}")
            names = _service.actor_names(table.service)
            fresh = table.next(manifest=manifest, generation=1 + max(
                [table.generation, *(name[0] for name in names)]))
            actors = _service.start_replicas(fresh, 0, fresh.replicas)
            try:
                _service.wait_ready(actors, timeout)
                self._publish(table, fresh)
            except BaseException:
                _service.kill(actors.values())
                raise
            older = dict(self._owned or {})
            self._own(actors)
            time.sleep(GRACE)                # until every client has looked
            del older
            _service.kill_named(table.service, [name for name in names
                                                if name[0] <= table.generation])

    def _own(self, actors):
        if self._owned is not None:
            self._owned.update(actors)

    def _current_table(self):
        """The directory's table, to be replaced by one of this client."""
        import ray
        if self._owned is None and not self._route.table.detached:
            raise VecidxError("only the program that started a service that is not detached may "
                              "change it: what it starts ends with it")
        table = ray.get(self._directory.table.remote(), timeout=60)
        if table.version != self._route.table.version:
            self._take(table)
        return table

    def _publish(self, old, new):
        import ray
        if not ray.get(self._directory.put.remote(new, old.version), timeout=60):
            raise VecidxError("another program changed the service meanwhile; try again")
        self._take(new)

    def close(self):
        """End the service, for every client."""
        if self._closed.is_set():
            return
        import ray
        self._closed.set()
        if not ray.is_initialized():
            return
        from vecidx.ray import _service
        service = self._route.table.service
        _service.kill_named(service, sorted(_service.actor_names(service)))
        _service.kill([self._directory])

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    # ---- writing ------------------------------------------------------------------

    def add(self, vectors, ids, *, on_conflict="replace", timeout=60.0):
        """Add vectors; for a service with `updates`.

        When it returns, they are on disk, and every search that begins finds them.

        Parameters
        ----------
        vectors : array_like, shape (n, dim)
        ids : array_like of int, shape (n,)
        on_conflict : {"replace", "error", "skip"}
            As for :meth:`vecidx.Index.add`; ``"error"`` is by shard: where an id is
            there, nothing is added to its shard.
        timeout : float
            Seconds.

        Raises
        ------
        ShardUnavailable
            Shards that did not say in time that the change is done; it may or may
            not be.  Adding the same again is safe.
        """
        from vecidx.ray import _writes
        return _writes.add(self._writing("add"), vectors, ids, on_conflict, timeout)

    def delete(self, ids, *, missing="error", timeout=60.0):
        """Delete vectors; for a service with `updates`.  How many were deleted.

        As :meth:`vecidx.Index.delete`, but of one step in each shard only; ids are
        looked up first, so that under ``"error"`` nothing has changed.
        """
        from vecidx.ray import _writes
        return _writes.delete(self._writing("delete"), ids, missing, timeout)

    def _writing(self, verb):
        route = self._route
        if route.table.updates is None:
            raise VecidxError(f"{verb}: this service only reads; serve(..., updates=folder) takes "
                              "writes")
        return route

    # ---- reading ------------------------------------------------------------------

    def get(self, ids, *, timeout=10.0):
        """The vectors stored under ids, as :meth:`vecidx.Index.get`; KeyError for one not there."""
        from vecidx.ray import _writes
        return _writes.get(self._route, self._health, ids, timeout)

    def __len__(self):
        """Rows; of a service that takes writes, as its shards say now."""
        route = self._route
        if route.table.updates is None:
            return route.table.manifest.rows
        from vecidx.ray import _writes
        return _writes.count(route)

    def status(self, *, timeout=2.0):
        """What serves where.

        Returns
        -------
        dict
            ``service``, ``generation``, ``manifest`` (its url), ``replicas``, and
            ``shards``: for each a list of what its replicas say: ``state``, ``node``,
            ``host``, ``pid``, ``rows``, ``searches``, ``up_seconds``, ``restarted``.
        """
        import ray
        route = self._route
        refs = {}
        for shard, keys in enumerate(route.replicas):
            for replica, key in enumerate(keys):
                try:
                    refs[shard, replica] = route.actor(key).status.remote()
                except Exception as exc:
                    refs[shard, replica] = one_line(exc)
        waiting = [ref for ref in refs.values() if not isinstance(ref, str)]
        ray.wait(waiting, num_returns=len(waiting), timeout=timeout)
        shards = [[] for _ in route.replicas]
        for (shard, replica), ref in refs.items():
            try:
                told = ray.get(ref, timeout=0.01) if not isinstance(ref, str) else \
                    {"state": f"unreachable: {ref}"}
            except ray.exceptions.RayError as err:
                told = {"state": f"unreachable: {one_line(err)}"}
            shards[shard].append({"shard": shard, "replica": replica, **told})
        table = route.table
        return {"service": table.service, "generation": table.generation,
                "manifest": table.manifest.url, "replicas": table.replicas, "shards": shards}

    @property
    def manifest(self):
        """The Manifest that is served."""
        return self._route.table.manifest

    @property
    def dim(self):
        return self.manifest.dim

    @property
    def metric(self):
        return self.manifest.metric

    def __reduce__(self):
        return connect, (self._route.table.service,)

    def __repr__(self):
        table = self._route.table
        state = "closed" if self._closed.is_set() else \
            f"{table.n_shards} shards x {table.replicas} replicas of {table.manifest.url}"
        return f"<vecidx.ray.ShardedIndex {table.service!r}: {state}>"


class _Route:
    """A table and the handles of its actors.  Fixed after creation, but for the handles."""

    def __init__(self, table):
        self.table = table
        self.replicas = [[table.name(shard, replica) for replica in range(table.replicas)]
                         for shard in range(table.n_shards)]
        # It looks at the arguments of a search as any index does.
        self.template = self.empty()
        self._actors = {}

    def empty(self, **parameters):
        """An empty index of the shards' kind."""
        manifest = self.table.manifest
        return vecidx.Index(manifest.dim, manifest.metric,
                            dtype=manifest.parameters.get("dtype", "float32"), **parameters)

    def actor(self, key):
        """The handle of a replica; ValueError where no actor has its name."""
        import ray
        actor = self._actors.get(key)
        if actor is None:
            actor = self._actors[key] = ray.get_actor(key, NAMESPACE)
        return actor

    def ask(self, key, request):
        return request.send(self.actor(key))

    def primaries(self, ids):
        """[(shard, key of its primary, positions of its ids)]."""
        shards = shard_of(ids, self.table.n_shards)
        return [(int(shard), self.replicas[shard][0], np.flatnonzero(shards == shard))
                for shard in np.unique(shards)]


def _reason(error):
    """Why a replica failed.  What the caller did wrong is raised instead."""
    cause = cause_of(error)
    if isinstance(cause, ReplicaNotReady):
        return str(cause)
    if isinstance(cause, (ValueError, TypeError)) and not isinstance(cause, IndexFormatError):
        raise cause from None
    return one_line(cause)


def _watch(reference, closed):
    """In a thread of its own: follow the directory, as long as its client lives."""
    import ray
    while not closed.wait(POLL):
        client = reference()
        if client is None or not ray.is_initialized():
            return
        try:
            client._refresh(5 * POLL)
        except Exception:                    # the cluster is going down, or comes back
            pass
        del client
