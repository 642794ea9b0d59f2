/**
 * An OpenAI-compatible HTTP server over an engine.
 * @module flashbun/server
 */
export type { EmbeddingModel } from "./embeddings.ts";
export type { ServerOptions } from "./options.ts";
export { ApiServer } from "./server.ts";
