import { list, object, type OptionSchemas } from "../options.ts";
import { only, orNull } from "./fields.ts";

const nothing = only();
/** Says who asks or what for, and changes no answer. */
const label = orNull({ type: "string", description: "a text" });
const labels = {
  type: "object",
  additionalProperties: { type: "string" },
  description: "an object of texts",
};

/** Fields of chats that are taken where they ask for nothing, and refused where they ask. */
export const chatDefaults: OptionSchemas = {
  audio: nothing,
  function_call: only("none", "auto"),
  functions: orNull({ type: "array", maxItems: 0, description: "absent: tools has functions" }),
  metadata: orNull(labels),
  modalities: orNull(list(only("text"), '["text"]')),
  moderation: nothing,
  prediction: nothing,
  prompt_cache_key: label,
  // What comes again is cached while there is room.
  prompt_cache_options: orNull(object({ mode: only("implicit") }, [], '{ mode: "implicit" }')),
  prompt_cache_retention: only("in_memory"),
  reasoning_effort: nothing,
  safety_identifier: label,
  service_tier: only("auto", "default"),
  store: only(false),
  verbosity: only("medium"),
  web_search_options: nothing,
};

/** The same of texts. */
export const textDefaults: OptionSchemas = {
  echo: only(false),
  suffix: only(""),
};
