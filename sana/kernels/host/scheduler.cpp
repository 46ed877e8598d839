// Runs the threads of a block as fibers that take turns where they wait for each other.
//
// A fiber is entered once through ucontext; from then on it goes back and forth with setjmp and longjmp, which save no
// signal mask and cost nanoseconds. Fibers are kept for the next block.
#include "shim.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <ucontext.h>
#include <vector>

__thread Place threadIdx, blockIdx, blockDim, gridDim;

namespace {

const size_t STACK = 64 * 1024;
const int WARP = 32;

enum class State { Ready, AtBlock, AtWarp, Done };

struct Fiber {
    State state = State::Done;
    bool entered = false;
    jmp_buf place;
    ucontext_t start;
    std::unique_ptr<char[]> stack{new char[STACK]};
    Place thread;
    size_t number = 0;
    // Two values take turns: a slow thread may still read the one while a quick one writes the next.
    float slots[2];
    int turn = 0;
};

struct Block {
    std::vector<std::unique_ptr<Fiber>> fibers;
    jmp_buf home;
    Fiber *current = nullptr;
    const Entry *entry = nullptr;
    void **arguments = nullptr;
};

thread_local Block block;

__attribute__((noinline)) void leave(Fiber *fiber, State state) {
    fiber->state = state;
    if (_setjmp(fiber->place) == 0)
        _longjmp(block.home, 1);
}

void run_fiber() {
    for (;;) {
        block.entry->call(block.arguments);
        leave(block.current, State::Done);
    }
}

__attribute__((noinline)) void enter(Fiber *fiber) {
    block.current = fiber;
    threadIdx = fiber->thread;
    if (_setjmp(block.home) != 0)
        return;
    if (fiber->entered)
        _longjmp(fiber->place, 1);
    fiber->entered = true;
    setcontext(&fiber->start);
}

Fiber *fiber_of(size_t number) {
    while (block.fibers.size() <= number) {
        std::unique_ptr<Fiber> fiber(new Fiber);
        if (getcontext(&fiber->start) != 0)
            host_fail("no context");
        fiber->start.uc_stack.ss_sp = fiber->stack.get();
        fiber->start.uc_stack.ss_size = STACK;
        fiber->start.uc_link = nullptr;
        makecontext(&fiber->start, run_fiber, 0);
        block.fibers.push_back(std::move(fiber));
    }
    return block.fibers[number].get();
}

void run_together(size_t threads) {
    for (size_t i = 0; i < threads; i++) {
        Fiber *fiber = fiber_of(i);
        fiber->state = State::Ready;
        fiber->turn = 0;
        fiber->number = i;
        fiber->thread = {(unsigned)(i % blockDim.x), (unsigned)(i / blockDim.x % blockDim.y),
                         (unsigned)(i / blockDim.x / blockDim.y)};
    }
    for (;;) {
        bool moved = false;
        size_t done = 0, at_block = 0;
        for (size_t first = 0; first < threads; first += WARP) {
            size_t last = first + WARP < threads ? first + WARP : threads, at_warp = 0, gone = 0;
            for (size_t i = first; i < last; i++) {
                Fiber *fiber = block.fibers[i].get();
                if (fiber->state == State::Ready) {
                    moved = true;
                    enter(fiber);
                }
                at_warp += fiber->state == State::AtWarp;
                at_block += fiber->state == State::AtBlock;
                gone += fiber->state == State::Done;
            }
            done += gone;
            if (at_warp == 0)
                continue;
            if (at_warp != WARP)
                host_fail("not all threads of a warp take part in a shuffle");
            moved = true;
            for (size_t i = first; i < last; i++)
                block.fibers[i]->state = State::Ready;
        }
        if (done == threads)
            return;
        if (moved)
            continue;
        if (at_block != threads)
            host_fail("not all threads of a block come to its barrier");
        for (size_t i = 0; i < threads; i++)
            block.fibers[i]->state = State::Ready;
    }
}

} // namespace

void host_fail(const char *what) {
    std::fprintf(stderr, "kernel %s: %s\n", block.entry ? block.entry->name : "?", what);
    std::abort();
}

void host_barrier() {
    if (!block.current)
        host_fail("waits, and is listed as one whose threads run alone");
    leave(block.current, State::AtBlock);
}

float host_shuffle_xor(float value, int mask) {
    Fiber *fiber = block.current;
    if (!fiber)
        host_fail("shuffles, and is listed as one whose threads run alone");
    int turn = fiber->turn;
    fiber->turn = 1 - turn;
    fiber->slots[turn] = value;
    leave(fiber, State::AtWarp);
    return block.fibers[fiber->number ^ (size_t)mask]->slots[turn];
}

extern "C" void sana_host_launch(const Entry *entry, const unsigned *grid, const unsigned *threads, void **arguments) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    block.entry = entry;
    block.arguments = arguments;
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
                if (entry->together) {
                    run_together((size_t)threads[0] * threads[1] * threads[2]);
                    block.current = nullptr;
                    continue;
                }
                for (threadIdx.z = 0; threadIdx.z < threads[2]; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < threads[1]; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < threads[0]; threadIdx.x++)
                            entry->call(arguments);
            }
}
