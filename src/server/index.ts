/**
 * An OpenAI-compatible HTTP server over an engine.
 * @module flashbun/server
 */
export type { EmbeddingModel } from "./embeddings.ts";
export { ApiServer, type ServerOptions } from "./server.ts";
