// How to call a service through lanekeeper, and repeat a request by what lanekeeper says of
// it. Made to be copied: Node 18 or later, nothing else.
//
//     node retry.js POST http://127.0.0.1:7940/orders/7/items '{"n": 1}' [IDEMPOTENCY-KEY]
"use strict";

const problemType = "urn:lanekeeper:problem:";

// The request was sent, and nobody knows what became of it. Look at the service before you
// send anything else for the key.
class Unknown extends Error {}

// The request was not executed, and it is of no use, or no use any more, to send it again as
// it is.
class Refused extends Error {}

// Returns the Response of the service, whatever it is. The request is repeated if it was not
// executed and may be the next time, after what Retry-After says. If nobody knows, it is
// repeated only if that cannot do it twice: it is a read, or has an Idempotency-Key that its
// route looks at. The body has to be a string or a buffer, not a stream.
async function send(url, options = {}, attempts = 5) {
  const method = (options.method || "GET").toUpperCase();
  const repeatable = ["GET", "HEAD"].includes(method) || new Headers(options.headers).has("Idempotency-Key");
  for (let attempt = 1; ; attempt++) {
    const last = attempt === attempts;
    let pause = 0;
    let answer, problem;
    try {
      answer = await fetch(url, options);
      problem = await readProblem(answer);
    } catch (failure) {
      const sent = !notSent.includes(failure.cause?.code);
      if (last && !sent) throw new Refused(`no-connection: ${failure.cause.code}`);
      if (sent && (!repeatable || last)) throw new Unknown(String(failure.cause ?? failure));
    }
    if (answer && !problem) return answer;
    if (problem) {
      const why = `${problem.type.slice(problemType.length)}: ${problem.detail}`;
      if (problem.executed !== "no") {
        // A 409 says that the outcome of an earlier attempt is unknown, and stays so.
        if (!repeatable || answer.status === 409 || last) throw new Unknown(why);
      } else {
        const after = answer.headers.get("Retry-After");
        if ((after === null && ![429, 502, 503].includes(answer.status)) || last) throw new Refused(why);
        pause = Number(after) || 0;
      }
    }
    // Some more, so that clients which were refused together do not come together.
    const more = Math.random() * 0.1 * 2 ** Math.min(attempt - 1, 6);
    await new Promise((wake) => setTimeout(wake, 1000 * (pause + more)));
  }
}

// There was no connection to send anything on.
const notSent = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"];

// What lanekeeper says in place of the service; undefined if it is the service that answers.
async function readProblem(answer) {
  if (!(answer.headers.get("Content-Type") || "").startsWith("application/problem+json")) return undefined;
  const text = await answer.clone().text();
  try {
    const problem = JSON.parse(text);
    return problem.type.startsWith(problemType) ? problem : undefined;
  } catch {
    return undefined;
  }
}

module.exports = { send, Unknown, Refused };

if (require.main === module) {
  const [method, url, body, key] = process.argv.slice(2);
  send(url, { method, body, headers: key ? { "Idempotency-Key": key } : {} }).then(
    (answer) => console.log("answered", answer.status),
    (failure) => {
      if (failure instanceof Refused) console.log("refused", failure.message);
      else if (failure instanceof Unknown) console.log("unknown", failure.message);
      else throw failure;
    },
  );
}
