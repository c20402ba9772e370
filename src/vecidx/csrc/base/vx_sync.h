/* vx_sync.h - threads, mutexes and conditions over POSIX and Win32, header only.
 *
 * Atomics are C11's <stdatomic.h> everywhere.
 *
 *   vx_mutex    _init _fini _lock _trylock _unlock, or static: VX_MUTEX_INIT
 *   vx_cond     _init _fini _wait _wait_ms _signal _broadcast, or VX_COND_INIT
 *   vx_rwlock   _init _fini _rdlock _rdunlock _wrlock _wrunlock
 *
 * None of these can fail in a way a caller could do anything about, so none
 * returns a status.  _wait and _wait_ms may return early: call them in a loop
 * over the condition.  _wait_ms needs a condition made by vx_cond_init: a static
 * one follows the wall clock on POSIX, which may be set back. */
#ifndef VX_SYNC_H
#define VX_SYNC_H

#include <stdatomic.h>

#include "vx_base.h"

/* Bytes of stack a worker gets.  Its loops keep their arrays on the heap, so a
 * few pages would do; the rest is for sanitizers and thread-local storage,
 * which glibc takes from here. */
#define VX_THREAD_STACK ((size_t)1 << 20)

#if defined(_WIN32)

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <process.h>
#include <windows.h>

typedef SRWLOCK vx_mutex;
typedef SRWLOCK vx_rwlock;
typedef CONDITION_VARIABLE vx_cond;
#define VX_MUTEX_INIT SRWLOCK_INIT
#define VX_COND_INIT CONDITION_VARIABLE_INIT

VX_INLINE void vx_mutex_init(vx_mutex *m) { InitializeSRWLock(m); }
VX_INLINE void vx_mutex_fini(vx_mutex *m) { (void)m; }
VX_INLINE void vx_mutex_lock(vx_mutex *m) { AcquireSRWLockExclusive(m); }
VX_INLINE bool vx_mutex_trylock(vx_mutex *m) { return TryAcquireSRWLockExclusive(m) != 0; }
VX_INLINE void vx_mutex_unlock(vx_mutex *m) { ReleaseSRWLockExclusive(m); }
VX_INLINE void vx_sleep_ms(unsigned ms) { Sleep(ms); }

VX_INLINE void vx_rwlock_init(vx_rwlock *l) { InitializeSRWLock(l); }
VX_INLINE void vx_rwlock_fini(vx_rwlock *l) { (void)l; }
VX_INLINE void vx_rwlock_rdlock(vx_rwlock *l) { AcquireSRWLockShared(l); }
VX_INLINE void vx_rwlock_rdunlock(vx_rwlock *l) { ReleaseSRWLockShared(l); }
VX_INLINE void vx_rwlock_wrlock(vx_rwlock *l) { AcquireSRWLockExclusive(l); }
VX_INLINE void vx_rwlock_wrunlock(vx_rwlock *l) { ReleaseSRWLockExclusive(l); }

VX_INLINE void vx_cond_init(vx_cond *c) { InitializeConditionVariable(c); }
VX_INLINE void vx_cond_fini(vx_cond *c) { (void)c; }
VX_INLINE void vx_cond_signal(vx_cond *c) { WakeConditionVariable(c); }
VX_INLINE void vx_cond_broadcast(vx_cond *c) { WakeAllConditionVariable(c); }
VX_INLINE void vx_cond_wait(vx_cond *c, vx_mutex *m)
{
    SleepConditionVariableSRW(c, m, INFINITE, 0);
}
VX_INLINE void vx_cond_wait_ms(vx_cond *c, vx_mutex *m, unsigned ms)
{
    SleepConditionVariableSRW(c, m, ms, 0);
}

VX_INLINE uint64_t vx_now_ns(void)
{
    LARGE_INTEGER ticks, rate;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    const uint64_t t = (uint64_t)ticks.QuadPart, r = (uint64_t)rate.QuadPart;
    return t / r * 1000000000u + t % r * 1000000000u / r;
}

/* static VX_THREAD_MAIN(work, arg) { ...; return VX_THREAD_END; } */
#define VX_THREAD_MAIN(name, arg) unsigned __stdcall name(void *arg)
#define VX_THREAD_END 0
typedef unsigned(__stdcall *vx_thread_fn)(void *);

VX_INLINE bool vx_thread_start(vx_thread_fn fn, void *arg)
{
    const uintptr_t handle = _beginthreadex(NULL, (unsigned)VX_THREAD_STACK, fn, arg,
                                            STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (handle == 0)
        return false;
    CloseHandle((HANDLE)handle);
    return true;
}

VX_INLINE bool vx_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    (void)before, (void)in_parent, (void)in_child;
    return true;
}

#else /* POSIX */

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef pthread_mutex_t vx_mutex;
typedef pthread_rwlock_t vx_rwlock;
typedef pthread_cond_t vx_cond;
#define VX_MUTEX_INIT PTHREAD_MUTEX_INITIALIZER
#define VX_COND_INIT PTHREAD_COND_INITIALIZER

VX_INLINE void vx_mutex_init(vx_mutex *m) { (void)pthread_mutex_init(m, NULL); }
VX_INLINE void vx_mutex_fini(vx_mutex *m) { (void)pthread_mutex_destroy(m); }
VX_INLINE void vx_mutex_lock(vx_mutex *m) { (void)pthread_mutex_lock(m); }
VX_INLINE bool vx_mutex_trylock(vx_mutex *m) { return pthread_mutex_trylock(m) == 0; }
VX_INLINE void vx_mutex_unlock(vx_mutex *m) { (void)pthread_mutex_unlock(m); }
VX_INLINE void vx_sleep_ms(unsigned ms)
{
    const struct timespec wait = { ms / 1000, (long)(ms % 1000) * 1000000 };
    (void)nanosleep(&wait, NULL);
}

VX_INLINE void vx_rwlock_init(vx_rwlock *l) { (void)pthread_rwlock_init(l, NULL); }
VX_INLINE void vx_rwlock_fini(vx_rwlock *l) { (void)pthread_rwlock_destroy(l); }
VX_INLINE void vx_rwlock_rdlock(vx_rwlock *l) { (void)pthread_rwlock_rdlock(l); }
VX_INLINE void vx_rwlock_rdunlock(vx_rwlock *l) { (void)pthread_rwlock_unlock(l); }
VX_INLINE void vx_rwlock_wrlock(vx_rwlock *l) { (void)pthread_rwlock_wrlock(l); }
VX_INLINE void vx_rwlock_wrunlock(vx_rwlock *l) { (void)pthread_rwlock_unlock(l); }

VX_INLINE void vx_cond_fini(vx_cond *c) { (void)pthread_cond_destroy(c); }
VX_INLINE void vx_cond_signal(vx_cond *c) { (void)pthread_cond_signal(c); }
VX_INLINE void vx_cond_broadcast(vx_cond *c) { (void)pthread_cond_broadcast(c); }
VX_INLINE void vx_cond_wait(vx_cond *c, vx_mutex *m) { (void)pthread_cond_wait(c, m); }

#if defined(__APPLE__) /* has no pthread_condattr_setclock */
VX_INLINE void vx_cond_init(vx_cond *c) { (void)pthread_cond_init(c, NULL); }
VX_INLINE void vx_cond_wait_ms(vx_cond *c, vx_mutex *m, unsigned ms)
{
    const struct timespec rel = { (time_t)(ms / 1000u), (long)(ms % 1000u) * 1000000L };
    (void)pthread_cond_timedwait_relative_np(c, m, &rel);
}
#else
VX_INLINE void vx_cond_init(vx_cond *c)
{
    pthread_condattr_t attr;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(c, &attr);
    (void)pthread_condattr_destroy(&attr);
}
VX_INLINE void vx_cond_wait_ms(vx_cond *c, vx_mutex *m, unsigned ms)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    const long ns = until.tv_nsec + (long)(ms % 1000u) * 1000000L;
    until.tv_sec += (time_t)(ms / 1000u) + (time_t)(ns / 1000000000L);
    until.tv_nsec = ns % 1000000000L;
    (void)pthread_cond_timedwait(c, m, &until);
}
#endif

/* A monotonic clock, in nanoseconds since some fixed moment. */
VX_INLINE uint64_t vx_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* static VX_THREAD_MAIN(work, arg) { ...; return VX_THREAD_END; } */
#define VX_THREAD_MAIN(name, arg) void *name(void *arg)
#define VX_THREAD_END NULL
typedef void *(*vx_thread_fn)(void *);

/* Start a detached thread; false if the system gives none.  It takes no signals
 * but those that its own instructions raise and the profiler's, so that Ctrl-C
 * reaches the thread that can act on it. */
VX_INLINE bool vx_thread_start(vx_thread_fn fn, void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t quiet, before;
    if (pthread_attr_init(&attr) != 0)
        return false;
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attr, VX_THREAD_STACK); /* refused: the default */
    (void)sigfillset(&quiet);
    (void)sigdelset(&quiet, SIGSEGV);
    (void)sigdelset(&quiet, SIGBUS);
    (void)sigdelset(&quiet, SIGFPE);
    (void)sigdelset(&quiet, SIGILL);
    (void)sigdelset(&quiet, SIGPROF);
    (void)pthread_sigmask(SIG_SETMASK, &quiet, &before);
    const bool started = pthread_create(&thread, &attr, fn, arg) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attr);
    return started;
}

/* Have functions, any of them NULL, called around every fork(), on its thread; false: no
 * memory. */
VX_INLINE bool vx_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    return pthread_atfork(before, in_parent, in_child) == 0;
}

#endif

/* *least = min(*least, value). */
VX_INLINE void vx_lower(_Atomic size_t *least, size_t value)
{
    size_t now = atomic_load(least);
    while (value < now && !atomic_compare_exchange_weak(least, &now, value)) {
    }
}

#endif
