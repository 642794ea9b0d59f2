/**
 * A response of server-sent events: each value as JSON, `[DONE]` at the end. It begins with the
 * first event, so that what fails before it has a status, and a router may ask another server. A
 * client that leaves returns the generator, which frees what the request holds. What it throws
 * later becomes the last event. `onEnd` is called once, when the last byte is out or the client is
 * gone. Errors: what the generator throws before its first event; `onEnd` is not called then.
 */
export async function eventStream(
  events: AsyncGenerator<object, void>,
  onError: (error: unknown) => object,
  onEnd: (failure?: unknown) => void,
): Promise<Response> {
  let first: IteratorResult<object, void> | undefined = await events.next();
  const encoder = new TextEncoder();
  const line = (data: string) => encoder.encode(`data: ${data}\n\n`);
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const { done, value } = first ?? (await events.next());
        first = undefined;
        controller.enqueue(line(done ? "[DONE]" : JSON.stringify(value)));
        if (!done) return;
        controller.close();
        onEnd();
      } catch (error) {
        controller.enqueue(line(JSON.stringify(onError(error))));
        controller.close();
        onEnd(error);
      }
    },
    async cancel(reason) {
      onEnd(reason ?? new Error("the client left"));
      await events.return();
    },
  });
  return new Response(body, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-cache" },
  });
}
