/** The conversation of the page at /: asks the server that it came from. */
const [talk, ask, text, send] = ["talk", "ask", "text", "send"].map((id) =>
  document.getElementById(id),
);
const field = (id) => document.getElementById(id).value.trim();
let messages = [];
let running;

/** Headers of a request; the key is kept for as long as the tab is open. */
export function headers() {
  const key = field("key") || sessionStorage.getItem("key") || "";
  if (key !== "") sessionStorage.setItem("key", key);
  return key === "" ? {} : { authorization: `Bearer ${key}` };
}

/** A line of the conversation. */
function say(role, content) {
  const line = document.createElement("li");
  line.className = role;
  line.append(content);
  talk.append(line);
  scroll();
  return line;
}

function scroll() {
  talk.scrollTop = talk.scrollHeight;
}

/** Writes pieces of an answer into its line, once a frame: laying it out takes a while. */
function writer(line) {
  const node = document.createTextNode("");
  line.append(node);
  let held = "";
  const write = () => {
    const atEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 40;
    node.appendData(held);
    held = "";
    if (atEnd) scroll();
  };
  return (piece) => {
    if (held === "") requestAnimationFrame(write);
    held += piece;
  };
}

/** Values of a stream of server-sent events, up to its end. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

function body() {
  const system = field("system");
  const [temperature, most] = [field("temperature"), field("most")];
  return {
    messages: [...(system === "" ? [] : [{ role: "system", content: system }]), ...messages],
    stream: true,
    stream_options: { include_usage: true },
    ...(temperature !== "" && { temperature: Number(temperature) }),
    ...(most !== "" && { max_tokens: Number(most) }),
  };
}

/** Asks for the next turn and writes it down as it comes. */
async function answer() {
  const line = say("assistant running", "");
  const write = writer(line);
  const stop = (running = new AbortController());
  send.textContent = "Stop";
  const started = performance.now();
  let [said, first, usage] = ["", undefined, undefined];
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", ...headers() },
      body: JSON.stringify(body()),
      signal: stop.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const piece = event.choices[0]?.delta.content ?? "";
      if (piece === "") continue;
      first ??= performance.now();
      said += piece;
      write(piece);
    }
  } catch (error) {
    if (!stop.signal.aborted) say("trouble", String(error.message ?? error));
  }
  line.classList.remove("running");
  if (running === stop) running = undefined;
  send.textContent = "Send";
  // A new chat began meanwhile: this answer is none of its turns.
  if (!line.isConnected) return;
  if (said === "") line.remove();
  else messages.push({ role: "assistant", content: said });
  if (usage && first) line.append(cost(usage, first - started, performance.now() - first));
  scroll();
}

/** What an answer took, as the page saw it. */
function cost(usage, firstMs, restMs) {
  const note = document.createElement("span");
  note.className = "cost";
  const { prompt_tokens: prompt, completion_tokens: count } = usage;
  const cached = usage.prompt_tokens_details.cached_tokens;
  const rate = count > 1 ? `, then ${((1000 * (count - 1)) / restMs).toFixed(1)} tokens/s` : "";
  note.textContent =
    `${count} tokens; the first after ${firstMs.toFixed(0)} ms${rate}; ` +
    `${prompt} tokens of prompt, ${cached} of them cached`;
  return note;
}

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running !== undefined) return running.abort();
  const content = text.value.trim();
  if (content === "") return;
  text.value = "";
  messages.push({ role: "user", content });
  say("user", content);
  void answer();
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (running === undefined) ask.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

document.getElementById("fresh").addEventListener("click", () => {
  running?.abort();
  messages = [];
  talk.replaceChildren();
  text.focus();
});
