//! A draw by weights: each token arrives after an exponentially distributed time divided by its
//! weight, and the first one is drawn, which is the Gumbel maximum without its second logarithm.
const simd = @import("../simd.zig");
const philox = @import("philox.zig");

const F = simd.F;
const lanes = simd.lanes;

/// The first of `padded` tokens, a multiple of philox.block; null if none has a weight. `weights`
/// says by some(start) whether any of philox.block tokens may have one, by of(start) what those of
/// a vector are, or more, and by one(token, weight) what it is.
pub fn run(random: philox.Philox, padded: usize, weights: anytype) ?u32 {
    var best: f32 = 0;
    var winner: ?u32 = null;
    var at: usize = 0;
    while (at < padded) : (at += philox.block) {
        if (!weights.some(at)) continue;
        const bits: [philox.block]u32 = random.at(@intCast(at / 4));
        inline for (0..4) |part| {
            const start = at + part * lanes;
            const w: F = weights.of(start);
            const v = philox.uniform(@as(simd.U, bits[part * lanes ..][0..lanes].*));
            // No time is shorter than its v, so that most need no logarithm.
            const may_win = w > v * simd.splat(best * 0.999999);
            if (@reduce(.Or, may_win)) {
                const may: [lanes]bool = may_win;
                const most: [lanes]f32 = w;
                const uniforms: [lanes]f32 = v;
                for (0..lanes) |lane| {
                    if (!may[lane]) continue;
                    const weight = weights.one(start + lane, most[lane]);
                    const score = weight / philox.exponential(uniforms[lane]);
                    if (score <= best) continue;
                    best = score;
                    winner = @intCast(start + lane);
                }
            }
        }
    }
    return winner;
}
