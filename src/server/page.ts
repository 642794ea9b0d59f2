/** The page's files, by their paths. */
const files: Readonly<Record<string, readonly [file: string, type: string]>> = {
  "/": ["chat.html", "text/html; charset=utf-8"],
  "/page/chat.css": ["chat.css", "text/css; charset=utf-8"],
  "/page/live.css": ["live.css", "text/css; charset=utf-8"],
  "/page/chat.js": ["chat.js", "text/javascript; charset=utf-8"],
  "/page/live.js": ["live.js", "text/javascript; charset=utf-8"],
};

/** Nothing from elsewhere, nothing that is written into the page, and no frame around it. */
const policy = [
  "default-src 'none'",
  "style-src 'self'",
  "script-src 'self'",
  "connect-src 'self'",
  "img-src blob: data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** A file of the chat page; undefined for a path that is none. */
export function pageFile(path: string): Response | undefined {
  if (!Object.hasOwn(files, path)) return undefined;
  const [file, type] = files[path];
  const headers = {
    "content-type": type,
    "content-security-policy": policy,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
  };
  return new Response(Bun.file(new URL(`./page/${file}`, import.meta.url)), { headers });
}
