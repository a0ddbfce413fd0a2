// Requests to our own server. A failed one is a PageError.

// An error whose message is a sentence for the page.
export class PageError extends Error {}

export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new PageError("The server does not answer. Is `vetdino app` still running?");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new PageError(body.error || `The server answered ${response.status}.`);
}

export const json = async (path, options) => (await request(path, options)).json();

// An answer of numbers: the header's length in 4 bytes (little-endian), the header as JSON, bytes.
export async function binary(path, options) {
  const bytes = new Uint8Array(await (await request(path, options)).arrayBuffer());
  const length = new DataView(bytes.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  return { header, bytes: bytes.subarray(4 + length) };
}

// Keeps the answers asked for last, by path; an answer that failed is asked for again.
export function cached(ask, most) {
  const answers = new Map();
  return (path) => {
    const answer = answers.get(path) ?? ask(path);
    answers.delete(path);
    answers.set(path, answer);
    answer.catch(() => answers.delete(path));
    if (answers.size > most) answers.delete(answers.keys().next().value);
    return answer;
  };
}
