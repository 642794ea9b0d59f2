import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { RouteParams } from "../ffi/params.gen.ts";
import { requireInteger, requireNumber, requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { needRows, numbers, requireDense } from "./rows.ts";

/** Most experts of a layer, and most of them that a token goes to. */
const expertsMost = 1024;
const topMost = 32;

/** Where each token's rows go in a mixture of experts; what {@link routeExperts} writes. */
export class ExpertRouting extends Owner {
  /** f32 [tokens, topK]: what an expert's row counts. */
  readonly weights: Tensor;
  /** i32 [tokens, topK]: the experts, the best first. */
  readonly experts: Tensor;
  /** i32 [experts + 1]: entries before each expert's, in the order of experts. */
  readonly starts: Tensor;
  /** i32 [tokens * topK]: the token of each entry in that order. */
  readonly rows: Tensor;
  /** i32 [tokens, topK]: where each entry lies in that order. */
  readonly places: Tensor;
  /** @internal i32 [1]: blocks of a launch that are done. */
  readonly ticket: Tensor;
  private isTicketReady = false;

  private constructor(
    readonly device: Device,
    readonly tokens: number,
    readonly topK: number,
    readonly expertCount: number,
  ) {
    super(`routing of ${tokens} tokens to ${topK} of ${expertCount} experts`);
    const room = (...shape: number[]) => Tensor.empty(device, shape, "i32", "routing");
    this.weights = Tensor.empty(device, [tokens, topK], "f32", "routing");
    this.experts = room(tokens, topK);
    this.starts = room(expertCount + 1);
    this.rows = room(tokens * topK);
    this.places = room(tokens, topK);
    this.ticket = room(1);
  }

  /** @internal Zeroes the ticket ahead of the first launch, on its stream; launches leave it so. */
  readyTicket(stream: Stream): void {
    if (this.isTicketReady) return;
    stream.fill(this.ticket.address, 0, 4);
    // What is captured has not run.
    this.isTicketReady = !this.device.captures.busy;
  }

  /** Room for a routing, of no use before `routeExperts` wrote it. Errors: OptionError. */
  static create(device: Device, tokens: number, topK: number, expertCount: number): ExpertRouting {
    requireInteger("tokens", tokens, 0, 2 ** 24);
    requireInteger("expertCount", expertCount, 1, expertsMost);
    requireInteger("topK", topK, 1, Math.min(topMost, expertCount));
    return new ExpertRouting(device, tokens, topK, expertCount);
  }

  protected override release(): void {
    const { weights, experts, starts, rows, places, ticket } = this;
    for (const tensor of [weights, experts, starts, rows, places, ticket]) tensor[Symbol.dispose]();
  }
}

/** Groups of experts, of which a token goes to those of the best ones alone. */
export interface ExpertGroups {
  /** Groups of as many neighbouring experts, 1 to 32. */
  count: number;
  /** Groups that a token takes experts from, of as many experts as topK or more. */
  kept: number;
  /**
   * Groups are compared by their best expert (1, the default), or by the sum of their best two,
   * which needs a bias.
   */
  best?: 1 | 2;
}

/** How tokens choose experts. */
export interface RouteOptions {
  /** Experts that each token goes to, 1 to 32. */
  topK: number;
  /** What a logit's score is; default "softmax", over all experts. */
  scoring?: "softmax" | "sigmoid";
  /** True: the weights of a token are divided by their sum. Default false. */
  renormalize?: boolean;
  /** f32 [experts], added to scores where experts are compared, not to weights. */
  bias?: Tensor;
  /** Multiplies the weights; default 1. */
  scale?: number;
  /** Groups of neighbouring experts of which a token takes some (DeepSeek-V3, arXiv 2412.19437). */
  groups?: ExpertGroups;
  /** Takes the result; left out, a new one does. */
  out?: ExpertRouting;
  /** Default: the device's own. */
  stream?: Stream;
}

const known = ["topK", "scoring", "renormalize", "bias", "scale", "groups", "out", "stream"];
/** Most groups of experts. */
const groupsMost = 32;
const params = new RouteParams();

/**
 * Queues the choice of experts by router `logits` [tokens, experts] of f32, f16 or bf16, and the
 * order of tokens by experts; returns the routing. Each token takes the `topK` largest scores, of
 * equal ones the lowest expert; a NaN logit counts as -Infinity, and a token of nothing else has
 * NaN weights. One launch. Errors: OptionError.
 */
export function routeExperts(logits: Tensor, options: RouteOptions): ExpertRouting {
  requireOptions("options", options, known);
  const { topK, scoring = "softmax", renormalize = false, bias, scale = 1 } = options;
  checkLogits(logits);
  const { device } = logits;
  const [tokens, experts] = logits.shape;
  requireInteger("topK", topK, 1, Math.min(topMost, experts));
  requireNumber("scale", scale);
  if (scoring !== "softmax" && scoring !== "sigmoid")
    throw new OptionError("scoring", scoring, "softmax or sigmoid", "name one of them.");
  if (typeof renormalize !== "boolean")
    throw new OptionError("renormalize", renormalize, "true or false", "leave it out for false.");
  if (bias !== undefined) requireDense("bias", bias, device, [experts], ["f32"]);
  if (options.groups !== undefined) checkGroups(options, experts);
  const { stream = device.stream } = options;
  requireStream(stream, device);
  if (options.out !== undefined) checkOut(options.out, logits, topK);
  const out = options.out ?? ExpertRouting.create(device, tokens, topK, experts);
  if (device.capturing) device.needOnReplay(out);
  needRows(device, logits, bias);
  params.logits = logits.address;
  params.logitsStride = logits.strides[0];
  params.dtype = dtypeCode(logits.dtype);
  params.bias = bias?.address ?? 0;
  params.sigmoid = scoring === "sigmoid" ? 1 : 0;
  params.renormalize = renormalize ? 1 : 0;
  params.scale = scale;
  const { groups } = options;
  params.groupCount = groups?.count ?? 1;
  params.groupsKept = groups?.kept ?? 1;
  params.groupBest = groups?.best ?? 1;
  placeRouting(out);
  const kernel = device.kernel("moe_route");
  out.readyTicket(stream);
  // One block at least: it writes that no expert has rows.
  device.launch(stream, kernel, params, Math.max(1, Math.ceil(tokens / kernel.itemRows)));
  return out;
}

function placeRouting(out: ExpertRouting): void {
  params.weights = out.weights.address;
  params.experts = out.experts.address;
  params.starts = out.starts.address;
  params.rows = out.rows.address;
  params.places = out.places.address;
  params.ticket = out.ticket.address;
  params.tokenCount = out.tokens;
  params.expertCount = out.expertCount;
  params.topK = out.topK;
}

/** Throws an OptionError unless `value` is a routing that is live and on the device. */
export function requireRouting(option: string, value: ExpertRouting, device: Device): void {
  if (typeof value?.starts?.requireOn !== "function" || typeof value.guard !== "function")
    throw new OptionError(option, value, "an ExpertRouting", "pass what routeExperts gave.");
  value.guard();
  value.starts.requireOn(device, option);
}

function checkLogits(logits: Tensor): void {
  requireTensor("logits", logits);
  logits.guard();
  const { label, shape, strides, dtype } = logits;
  const [tokens, experts] = shape;
  const isMatrix = shape.length === 2 && tokens <= 2 ** 24 && experts >= 1;
  const isNear = (experts === 1 || strides[1] === 1) && strides[0] >= 0;
  if (isMatrix && experts <= expertsMost && isNear && numbers.includes(dtype)) return;
  const types = numbers.join(", ");
  const allowed = `a tensor [tokens, 1 to ${expertsMost}] of ${types} with innermost stride 1`;
  throw new OptionError("logits", label, allowed, "give the router's product.");
}

function checkGroups({ groups, topK, bias }: RouteOptions, experts: number): void {
  requireOptions("groups", groups, ["count", "kept", "best"]);
  const { count, kept, best = 1 } = groups!;
  requireInteger("groups.count", count, 1, Math.min(groupsMost, experts));
  if (experts % count !== 0) {
    const fix = "take as many experts for each group.";
    throw new OptionError("groups.count", count, `a divisor of ${experts} experts`, fix);
  }
  requireInteger("groups.kept", kept, Math.ceil((topK * count) / experts), count);
  requireInteger("groups.best", best, 1, 2);
  if (best === 2 && bias === undefined)
    throw new OptionError(
      "groups.best",
      best,
      "1 without a bias",
      "give one, of zeros if need be.",
    );
}

function checkOut(out: ExpertRouting, logits: Tensor, topK: number): void {
  requireRouting("out", out, logits.device);
  const [tokens, experts] = logits.shape;
  if (out.tokens !== tokens || out.topK !== topK || out.expertCount !== experts) {
    const allowed = `of ${tokens} tokens to ${topK} of ${experts} experts`;
    throw new OptionError("out", out.label, allowed, "leave it out, or make one of this size.");
  }
  for (const tensor of [out.weights, out.experts, out.starts, out.rows, out.places])
    requireApart("out", tensor, "logits", logits);
}
