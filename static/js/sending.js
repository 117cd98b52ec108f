// One POST, and what became of it in one word:
//   done        the server has it; `part` is what it answered, `refusals` what it will never take of several, by UUID
//   refused     the server will never take it; `part` says why, and `code` and `text` in a word and a sentence
//   offline     nobody answered; worth trying again
//   trouble     the server could not answer now; worth trying again
//   signed-out  the session ran out
//   other-user  somebody else has signed in in this browser since; `who` is their name
//   denied      this person may not do this any more

let token = document.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? "";

export async function send(address, fields, page) {
  let answer = await post(address, fields);
  if (answer?.status === 403) {
    // A sign-in elsewhere changes the token; the page knows the new one, and who is signed in.
    const fresh = await lookAgain(page);
    if (fresh.outcome !== "done") return fresh;
    answer = await post(address, fields);
    if (answer?.status === 403) return { outcome: "denied" };
  }
  return judge(answer);
}

/** What the page's own address answers as a part: nothing is taken by looking. */
export async function look(address) {
  try {
    const answer = await fetch(address, { headers: { "HX-Request": "true" }, redirect: "manual" });
    return await judge(answer);
  } catch {
    return { outcome: "offline" };
  }
}

async function post(address, fields) {
  const body = fields instanceof URLSearchParams ? fields : new URLSearchParams(fields);
  try {
    // keepalive: an answer on its way still arrives when the tab is closed that moment.
    return await fetch(address, {
      method: "POST", body, redirect: "manual", keepalive: true,
      headers: { "HX-Request": "true", "X-CSRFToken": token },
    });
  } catch {
    return null;
  }
}

async function judge(answer) {
  if (answer === null) return { outcome: "offline" };
  if (answer.type === "opaqueredirect") return { outcome: "signed-out" };
  if (answer.status >= 500 || answer.status === 408 || answer.status === 429) return { outcome: "trouble", status: answer.status };
  let text;
  try {
    text = await answer.text();
  } catch {
    return { outcome: "offline" };
  }
  const part = new DOMParser().parseFromString(text, "text/html");
  if (answer.ok) {
    const refused = [...part.querySelectorAll(".refusal")];
    const refusals = new Map(refused.map((each) => [each.dataset.uuid, { code: each.dataset.code, text: each.textContent }]));
    return { outcome: "done", part, refusals };
  }
  // A refusal of the action comes with the page's own part; any other page is about the project or the person.
  if (part.getElementById("progress") || part.getElementById("grid")) {
    const notice = part.getElementById("notice");
    return { outcome: "refused", part, code: notice?.dataset.code ?? "", text: notice?.textContent ?? "" };
  }
  return { outcome: "denied", status: answer.status };
}

async function lookAgain(page) {
  let answer;
  try {
    answer = await fetch(page.address, { redirect: "manual" });
  } catch {
    return { outcome: "offline" };
  }
  if (answer.type === "opaqueredirect") return { outcome: "signed-out" };
  if (answer.status >= 500) return { outcome: "trouble", status: answer.status };
  if (!answer.ok) return { outcome: "denied", status: answer.status };
  const whole = new DOMParser().parseFromString(await answer.text(), "text/html");
  const desk = whole.querySelector("[data-user]");
  if (desk && desk.dataset.user !== page.user) return { outcome: "other-user", who: desk.dataset.who };
  token = whole.querySelector("input[name=csrfmiddlewaretoken]")?.value ?? token;
  return { outcome: "done" };
}

/** A random UUID. crypto.randomUUID exists only on https and this machine itself; a team may use plain http. */
export function newUuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}
