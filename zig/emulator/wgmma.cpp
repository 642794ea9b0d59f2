// Tensor cores of a warpgroup. A product runs when its warp waits for it, one warp's 16 rows at a
// time; until then its accumulators are poisoned. Shared operands are read then, not at issue.
#include <bit>
#include <cmath>
#include <limits>

#include "matrix.h"
#include "proxy.h"

namespace emu {

static bool is_fp8(Number kind) { return kind == Number::e4m3 || kind == Number::e5m2; }

static Shadow* shadow_of(Thread* thread, const float* d) {
    for (Shadow& shadow : thread->shadows)
        if (shadow.d == d) return &shadow;
    return nullptr;
}

// All warps of a warpgroup must issue the same products.
static void check_agreement(Thread* thread, const WgmmaIssue& issue) {
    auto& trace = thread->home->wgmma_trace[thread->number / 128];
    const std::pair<uint64_t, uint64_t> places(issue.a_place, issue.b_place);
    const unsigned turn = thread->wgmmas_issued++;
    if (turn == trace.size())
        trace.push_back(places);
    else if (trace[turn] != places)
        fail("wgmma number %u: descriptors differ inside the warpgroup", turn);
}

void wgmma(float* d, int columns, const uint32_t* a, uint64_t a_place, uint64_t b_place,
           bool accumulate, bool transpose_a, bool transpose_b, Number kind) {
    Thread* thread = me();
    if (!thread->wgmma_fenced) fail("wgmma without a wgmma.fence since the last commit");
    WgmmaIssue issue{d,           columns, a != nullptr, accumulate, transpose_a,
                     transpose_b, kind,    {},           a_place,    b_place};
    if (a) raw_copy(issue.a, a, 16);
    check_agreement(thread, issue);
    if (shadow_of(thread, d) == nullptr)
        thread->shadows.push_back({d, std::vector<float>(d, d + columns / 2)});
    poison(d, size_t(columns) * 2);
    thread->wgmmas.items.push_back(issue);
}

void wgmma_fence() { me()->wgmma_fenced = true; }

void wgmma_commit() {
    me()->wgmma_fenced = false;
    me()->wgmmas.commit();
}

namespace {
// A matrix descriptor: where 16-byte pieces of an operand lie.
class Operand {
  public:
    Operand(uint64_t descriptor, bool mn_major) : mn_major_(mn_major) {
        constexpr uint64_t known = 0xc00e3fff3fff3fffull;
        if (descriptor & ~known)
            fail("wgmma descriptor %#lx has unknown bits", (unsigned long)descriptor);
        if (descriptor >> 49 & 7) fail("wgmma descriptors with a base offset are not emulated");
        start_ = uint32_t(descriptor & 0x3fff) << 4;
        leading_ = uint32_t(descriptor >> 16 & 0x3fff) << 4;
        stride_ = uint32_t(descriptor >> 32 & 0x3fff) << 4;
        const unsigned mode = unsigned(descriptor >> 62);
        span_ = mode == 0 ? 16 : mode == 1 ? 128 : mode == 2 ? 64 : 32;
    }
    // K-major: row `i`, piece `j` along K. MN-major: piece `i` along MN, row `j` of K.
    const uint8_t* piece(uint32_t i, uint32_t j) const {
        const uint32_t pieces = span_ / 16; // of a swizzled row
        uint32_t at = start_;
        if (!mn_major_) {
            at += i / 8 * stride_ + i % 8 * span_ + (span_ == 16 ? j * leading_ : j * 16);
        } else if (span_ == 16) {
            at += i * stride_ + j % 8 * 16 + j / 8 * leading_;
        } else {
            at += i / pieces * leading_ + i % pieces * 16 + j % 8 * span_ + j / 8 * stride_;
        }
        const uint32_t window = my_block()->place * window_bytes;
        return static_cast<const uint8_t*>(shared_pointer(window + swizzled(at, span_), 16, 16));
    }
    bool mn_major() const { return mn_major_; }

  private:
    uint32_t start_, leading_, stride_, span_;
    bool mn_major_;
};

struct Tiles {
    float a[16][32], b[32][256], c[16][256];
};
} // namespace

static void unpack_piece(const uint8_t* piece, Number kind, float* out) {
    uint32_t words[4];
    raw_copy(words, piece, 16);
    for (uint32_t word : words) out += unpack(word, kind, out);
}

// Calls set(mn, k, value) for rows [first, first + count) of the operand.
template <class F>
static void read_operand(const Operand& operand, Number kind, uint32_t first, uint32_t count,
                         F set) {
    const uint32_t each = is_fp8(kind) ? 16 : 8, depth = each * 2;
    float values[16];
    if (!operand.mn_major()) {
        for (uint32_t i = 0; i < count; ++i)
            for (uint32_t j = 0; j < 2; ++j) {
                const uint8_t* piece = operand.piece(first + i, j);
                race::reads(piece, 16);
                unpack_piece(piece, kind, values);
                for (uint32_t k = 0; k < each; ++k) set(i, j * each + k, values[k]);
            }
        return;
    }
    for (uint32_t i = 0; i < count; i += each)
        for (uint32_t k = 0; k < depth; ++k) {
            const uint8_t* piece = operand.piece((first + i) / each, k);
            race::reads(piece, 16);
            unpack_piece(piece, kind, values);
            for (uint32_t e = 0; e < each; ++e) set(i + e, k, values[e]);
        }
}

static void check_same(const WgmmaIssue& x, const WgmmaIssue& y) {
    if (x.columns != y.columns || x.a_in_registers != y.a_in_registers ||
        x.accumulate != y.accumulate || x.kind != y.kind || x.a_place != y.a_place ||
        x.b_place != y.b_place)
        fail("wgmma: the lanes of the warp do not agree");
}

// Hopper adds fp8 products and the old sum at the exponent of the largest, cuts off what lies 13
// bits below it, and does so again with the sum. `a` is a row of 32, `c` its columns.
static void add_cut_products(const float* a, const float (&b)[32][256], float* c, int columns) {
    float whole[256], top[256], unit[256], sum[256];
    for (int n = 0; n < columns; ++n) {
        whole[n] = c[n];
        top[n] = std::fabs(c[n]);
    }
    for (int k = 0; k < 32; ++k)
        for (int n = 0; n < columns; ++n) {
            const float x = a[k] * b[k][n];
            whole[n] += x;
            top[n] = std::fabs(x) > top[n] ? std::fabs(x) : top[n];
        }
    for (int n = 0; n < columns; ++n) {
        const uint32_t exponent = std::bit_cast<uint32_t>(top[n]) >> 23;
        const bool fits = exponent >= 14 && exponent <= 250;
        unit[n] = fits ? std::bit_cast<float>((267 - exponent) << 23) : 1;
        sum[n] = std::trunc(c[n] * unit[n]);
    }
    for (int k = 0; k < 32; ++k)
        for (int n = 0; n < columns; ++n) sum[n] += std::trunc(a[k] * b[k][n] * unit[n]);
    for (int n = 0; n < columns; ++n) {
        const uint32_t bits = std::bit_cast<uint32_t>(sum[n] / unit[n]);
        const bool finite = std::fabs(whole[n]) < std::numeric_limits<float>::infinity();
        c[n] = finite ? std::bit_cast<float>(bits & ~((1u << 10) - 1)) : whole[n];
    }
}

// One product for the 16 rows of one warp.
static void run_product(Thread** lanes, size_t number, Tiles& tiles) {
    const WgmmaIssue& first = lanes[0]->wgmmas.items[number];
    const int columns = first.columns, each = is_fp8(first.kind) ? 4 : 2;
    for (int lane = 0; lane < 32; ++lane) {
        const WgmmaIssue& issue = lanes[lane]->wgmmas.items[number];
        check_same(first, issue);
        const float* d = shadow_of(lanes[lane], issue.d)->values.data();
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < columns / 2; ++i)
            tiles.c[g + (i >> 1 & 1) * 8][i / 4 * 8 + t * 2 + (i & 1)] =
                first.accumulate ? d[i] : 0.0f;
        if (!first.a_in_registers) continue;
        for (int i = 0; i < 4; ++i)
            unpack(issue.a[i], issue.kind,
                   &tiles.a[g + (i & 1) * 8][t * each + (i >> 1) * 4 * each]);
    }
    {
        Proxy proxy(lanes[0]->runner); // it sees what was fenced, not what the warp has seen
        if (!first.a_in_registers)
            read_operand(Operand(first.a_place, first.transpose_a), first.kind,
                         lanes[0]->number / 32 % 4 * 16, 16,
                         [&](uint32_t row, uint32_t k, float v) { tiles.a[row][k] = v; });
        read_operand(Operand(first.b_place, first.transpose_b), first.kind, 0, uint32_t(columns),
                     [&](uint32_t n, uint32_t k, float v) { tiles.b[k][n] = v; });
        race::release(lanes[0]->warp);
    }
    for (int row = 0; row < 16; ++row) {
        if (is_fp8(first.kind)) add_cut_products(tiles.a[row], tiles.b, tiles.c[row], columns);
        for (int k = 0; k < 16 && !is_fp8(first.kind); ++k)
            for (int n = 0; n < columns; ++n) tiles.c[row][n] += tiles.a[row][k] * tiles.b[k][n];
    }
    for (int lane = 0; lane < 32; ++lane) {
        float* d = shadow_of(lanes[lane], lanes[lane]->wgmmas.items[number].d)->values.data();
        const int g = lane / 4, t = lane % 4;
        for (int i = 0; i < columns / 2; ++i)
            d[i] = tiles.c[g + (i >> 1 & 1) * 8][i / 4 * 8 + t * 2 + (i & 1)];
    }
}

namespace {
struct WgmmaWait {
    Thread* thread;
    uint32_t due;
};
} // namespace

static void run_due(void** arguments, uint32_t mask, Warp*) {
    // On the heap: a library that is opened late has little thread-local memory.
    static thread_local const auto kept = std::make_unique<Tiles>();
    Tiles& tiles = *kept;
    if (mask != ~0u) fail("wgmma needs the whole warp");
    Thread* lanes[32];
    const uint32_t due = static_cast<WgmmaWait*>(arguments[0])->due;
    for (int lane = 0; lane < 32; ++lane) {
        const auto& wait = *static_cast<WgmmaWait*>(arguments[lane]);
        lanes[lane] = wait.thread;
        if (wait.due != due) fail("wgmma: the lanes of the warp wait for different products");
    }
    for (size_t i = 0; i < due; ++i) run_product(lanes, i, tiles);
}

// Accumulators that no product in flight owns come back into the thread's hands.
static void return_accumulators(Thread* thread) {
    std::erase_if(thread->shadows, [thread](const Shadow& shadow) {
        for (const WgmmaIssue& issue : thread->wgmmas.items)
            if (issue.d == shadow.d) return false;
        raw_copy(shadow.d, shadow.values.data(), shadow.values.size() * 4);
        return true;
    });
}

void wgmma_wait(int pending) {
    Thread* thread = me();
    WgmmaWait wait{thread, thread->wgmmas.due(pending)};
    race::release(thread->warp);
    collective(~0u, "wgmma.wait_group", run_due, &wait);
    race::acquire(thread->warp);
    thread->wgmmas.drop(wait.due);
    return_accumulators(thread);
}

} // namespace emu
