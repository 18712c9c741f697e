// The page asks the server's own API and writes text, never markup: nothing that a user chose can become a script.
"use strict";

const byId = (id) => document.getElementById(id);
let authorization = null;

function say(fault) {
  byId("fault").textContent = fault;
  byId("fault").hidden = !fault;
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit ? number.toFixed(1) : number} ${units[unit]}`;
}

function cell(row, content) {
  const made = document.createElement("td");
  made.append(content);
  row.append(made);
}

function share(used, quota) {
  if (quota === null) return "";
  const meter = document.createElement("meter");
  meter.max = Math.max(quota, 1);
  meter.value = used;
  meter.high = 0.9 * meter.max;
  meter.textContent = meter.title = quota ? `${Math.round((100 * used) / quota)} %` : "full";
  return meter;
}

function devices(list) {
  const made = document.createElement("ul");
  for (const device of list) {
    const item = document.createElement("li");
    const name = device.label || `token ${device.number}`;
    item.textContent = `${name} (${device.scopes.join(", ")}): ${device.seen || "never"}`;
    made.append(item);
  }
  return made;
}

function show(summary) {
  const process = summary.process;
  byId("state").textContent =
    `${summary.users.length} users; ${process.open_requests} requests open, ${process.waiting_requests} of them waiting for changes.`;
  const users = summary.users.map((user) => {
    const row = document.createElement("tr");
    cell(row, user.removed ? `${user.user} (being removed)` : user.user);
    cell(row, bytes(user.used));
    cell(row, user.quota === null ? "no limit" : bytes(user.quota));
    cell(row, share(user.used, user.quota));
    cell(row, String(user.blobs));
    cell(row, devices(user.devices));
    return row;
  });
  byId("users").replaceChildren(...users);
  const failures = summary.failures.map((failure) => {
    const row = document.createElement("tr");
    cell(row, failure.time);
    cell(row, String(failure.status));
    cell(row, `${failure.method} ${failure.route}`);
    cell(row, failure.request_id);
    return row;
  });
  byId("failures").replaceChildren(...failures);
  byId("failures-table").hidden = !failures.length;
  byId("no-failures").hidden = Boolean(failures.length);
  byId("failures-title").textContent = `Errors of the last hour: ${summary.failures_total}`;
}

async function load() {
  let answer, body;
  try {
    answer = await fetch("/admin/summary", { headers: { Authorization: authorization } });
    body = await answer.json();
  } catch {
    say("The server does not answer.");
    return;
  }
  byId("shown").hidden = !answer.ok;
  byId("door").hidden = answer.ok;
  say(answer.ok ? "" : body.error.message);
  if (answer.ok) show(body);
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  authorization = null;
  try {
    authorization = "Token " + btoa(`${byId("user").value}:${byId("token").value.trim()}`);
  } catch {
    say("The user or the token has a character that cannot be in one.");
    return;
  }
  byId("token").value = "";
  load();
});
byId("again").addEventListener("click", load);
