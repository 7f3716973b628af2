// The text of a stream of server-sent events, as it comes in pieces. Pure.

// Reader keeps the unfinished rest. Its feed calls tell(name, data, id) for each event. An
// EventSource would do the same, but can carry no token and hides why it was refused.
export class Reader {
  constructor(tell) {
    this.tell = tell;
    this.rest = "";
    this.lastID = "";
    this.retry = null; // milliseconds, if the server has said so
    this.clear();
  }

  clear() {
    this.name = "";
    this.data = [];
  }

  feed(text) {
    // A line may end with CR, LF or both. A CR at the end may be half of both: it waits.
    const whole = this.rest + text;
    const lines = whole.split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
  }

  line(line) {
    if (line === "") {
      if (this.data.length > 0) this.tell(this.name || "message", this.data.join("\n"), this.lastID);
      this.clear();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a heartbeat
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    switch (field) {
      case "event":
        this.name = value;
        break;
      case "data":
        this.data.push(value);
        break;
      case "id":
        if (!value.includes("\0")) this.lastID = value;
        break;
      case "retry":
        if (/^\d+$/.test(value)) this.retry = Number(value);
    }
  }
}

// pause is how long to wait before another try: longer each time, but an operator who looks at the
// page never waits long.
export function pause(tries, retry) {
  return Math.min(retry * 2 ** Math.min(tries, 3), 10000);
}
