/**
 * An OpenAI-compatible HTTP server over an engine.
 * @module flashbun/server
 */
export { ApiServer, type ServerOptions } from "./server.ts";
