"use strict";
(() => {
  const page = document.body.dataset;
  const headers = { [page.tokenHeader]: page.token };
  const mostBytes = Number(page.uploadBytes);
  const suffixes = page.suffixes.split(",");
  const results = { A: null, B: null };

  const make = (tag, text) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = (score) => 25 * Math.min(Math.max(score - 1, 0), 4);
  const two = (value) => value.toFixed(2).replace("-", "−");
  const size = (bytes) => {
    const units = ["bytes", "KiB", "MiB", "GiB"];
    let place = 0;
    while (bytes >= 1024 && place < 3) { bytes /= 1024; place += 1; }
    return (place ? bytes.toPrecision(3) : bytes) + " " + units[place];
  };
  // What the model writes around its reasons is not for reading.
  const readable = (text) => text
    .replace(/<answer>[^]*$/, "").replace(/<\/?think>/g, "").replace(/<[a-z/]*$/, "").trim();

  function marks(track, score, std, scores, letter) {
    const found = [0, 25, 50, 75, 100].map((at) => {
      const tick = make("i");
      tick.className = "tick";
      tick.style.left = at + "%";
      return tick;
    });
    const put = (name, left) => {
      const made = make("i");
      made.className = name;
      made.style.left = left + "%";
      found.push(made);
      return made;
    };
    if (std) {
      const left = percent(score - std);
      put("spread", left).style.width = percent(score + std) - left + "%";
    }
    for (const one of scores) put("sample", percent(one));
    put("dot", percent(score));
    track.replaceChildren(...found);
  }

  class Lane {
    constructor(letter) {
      this.letter = letter;
      this.root = document.getElementById("lane-" + letter);
      this.input = this.find("input");
      this.video = this.find("video");
      this.emptyName = this.find(".file-name").textContent;
      this.input.addEventListener("change", () => this.take(this.input.files));
      this.find(".stop").addEventListener("click", () => this.stop());
      this.find(".again").addEventListener("click", () => { this.clear(); this.input.focus(); });
      this.video.addEventListener("error", () => {
        if (!this.file) return;
        this.video.hidden = true;
        this.find(".unplayable").hidden = false;
      });
      for (const name of ["dragover", "dragleave", "drop"]) {
        this.root.addEventListener(name, (event) => {
          event.preventDefault();
          this.root.classList.toggle("over", name === "dragover" && !this.file);
          if (name === "drop" && !this.file) this.take(event.dataTransfer.files);
        });
      }
      this.clear();
    }

    find(selector) { return this.root.querySelector(selector); }

    show(...names) {
      for (const name of ["drop", "shown", "progress", "failure", "verdict", "thoughts", "seen", "again"]) {
        this.find("." + name).hidden = !names.includes(name);
      }
    }

    reveal(name) { this.find("." + name).hidden = false; }

    clear() {
      this.end();
      this.id = this.file = null;
      if (this.address) URL.revokeObjectURL(this.address);
      this.address = null;
      this.video.removeAttribute("src");
      this.input.value = "";
      this.find(".file-name").textContent = this.emptyName;
      for (const name of [".strip", ".answers ol", ".others", ".notes"]) this.find(name).replaceChildren();
      this.find(".reason").textContent = "";
      this.root.dataset.state = "empty";
      results[this.letter] = null;
      compare();
      this.show("drop");
    }

    take(files) {
      if (!files.length) return;
      const file = files[0];
      const ending = file.name.toLowerCase().replace(/^.*(?=\.)/, "");
      if (files.length > 1) return this.refuse("One video at a time, please.");
      if (!suffixes.includes(ending)) return this.refuse(`${file.name} does not end like a video file (mp4, mov, mkv, webm, …).`);
      if (!file.size) return this.refuse(`${file.name} is empty (0 bytes).`);
      if (file.size > mostBytes) return this.refuse(`${file.name} has ${size(file.size)}; at most ${size(mostBytes)} are taken.`);
      this.file = file;
      this.find(".file-name").textContent = file.name;
      this.find(".facts").textContent = size(file.size);
      this.address = URL.createObjectURL(file);
      this.video.hidden = false;
      this.find(".unplayable").hidden = true;
      this.video.src = this.address;
      this.show("shown", "progress");
      this.send(file);
    }

    refuse(reason) {
      this.input.value = "";
      this.find(".failure").textContent = reason;
      this.show("drop", "failure");
    }

    status(text, share) {
      this.find(".status").textContent = text;
      const bar = this.find("progress");
      if (share === undefined) bar.removeAttribute("value");
      else bar.value = share;
    }

    send(file) {
      this.root.dataset.state = "sending";
      this.status("Copying…", 0);
      const request = this.request = new XMLHttpRequest();
      request.open("POST", "jobs?name=" + encodeURIComponent(file.name));
      for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
      request.upload.onprogress = (event) => this.status("Copying…", event.loaded / event.total);
      request.onload = () => {
        this.request = null;
        let said = {};
        try { said = JSON.parse(request.responseText); } catch { /* not from us */ }
        if (request.status !== 201) return this.fail(said.error || "The upload was refused.");
        this.id = said.id;
        this.listen();
      };
      request.onerror = () => { this.request = null; this.fail("The connection was lost. Is vqathinker app still running?"); };
      request.send(file);
    }

    listen() {
      const source = this.source = new EventSource(`jobs/${this.id}/events`);
      let misses = 0;
      const on = (name, act) => source.addEventListener(name, (event) => {
        misses = 0;
        act(JSON.parse(event.data));
      });
      this.root.dataset.state = "waiting";
      on("queue", ({ ahead }) => this.status(ahead ? `Waiting: ${ahead} video${ahead > 1 ? "s" : ""} before this one` : "Next in line"));
      on("started", () => this.begin());
      on("frames", (facts) => this.frames(facts));
      on("text", ({ text }) => this.text(text));
      on("timeline", ({ until }) => this.now(`Judged piece by piece up to ${until}…`));
      on("result", (facts) => { this.end(); this.verdict(facts); });
      on("failed", ({ reason }) => this.fail(reason));
      source.onerror = () => {
        misses += 1;
        if (source.readyState === EventSource.CLOSED || misses > 3) this.fail("The connection was lost. Is vqathinker app still running?");
      };
    }

    begin() {
      const begin = performance.now();
      this.root.dataset.state = "running";
      this.tell = () => this.status(`${this.doing} ${Math.round((performance.now() - begin) / 1000)} s`);
      this.now("Reading the video…");
      this.clock = setInterval(this.tell, 1000);
      queue();
    }

    now(doing) {
      if (this.doing === doing || this.doing === "Stopping…") return;
      this.doing = doing;
      this.tell();
    }

    frames({ pictures, count, side }) {
      this.now("The model is looking…");
      const fewer = pictures.length < count ? `; ${pictures.length} of them here` : "";
      this.find(".seen-note").textContent = `${count} image${count > 1 ? "s" : ""} of ${side} × ${side} pixels, squashed or cut as the model gets them${fewer}.`;
      this.find(".strip").replaceChildren(...pictures.map((uri, place) => {
        const item = make("li"), image = make("img");
        image.src = uri;
        image.alt = `Image ${place + 1} that the model is shown`;
        item.append(image);
        return item;
      }));
      this.reveal("seen");
    }

    text(text) {
      this.now("The model is writing…");
      const box = this.find(".reason");
      const follows = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
      box.textContent = readable(text);
      if (follows) box.scrollTop = box.scrollHeight;
      this.find(".thoughts").classList.add("writing");
      this.find(".live").hidden = false;
      this.find(".answers").hidden = true;
      this.reveal("thoughts");
    }

    verdict(facts) {
      const number = this.find(".number b");
      if (facts.status !== "ok") return this.fail(facts.error);
      number.textContent = facts.shown;
      number.classList.toggle("none", facts.score === null);
      this.find(".std").textContent = facts.std === null ? "" : "± " + two(facts.std);
      const kind = this.find(".kind");
      kind.hidden = facts.kind === "published";
      kind.textContent = facts.kind + " model";
      const read = facts.scores.filter((one) => one !== null);
      const track = this.find(".line");
      track.hidden = facts.score === null;
      this.find(".verdict .ends").hidden = facts.score === null;
      if (facts.score !== null) {
        marks(track, facts.score, facts.std, read.length > 1 ? read : []);
        track.setAttribute("aria-label", `${facts.shown} on the line from 1, worst, to 5, best`);
      }
      this.find(".spread-note").textContent = read.length > 1
        ? `Small dots: the scores of ${read.length} answers; the band is one standard deviation to both sides.` : "";
      this.find(".others").replaceChildren(...facts.others.map(([title, value]) => {
        const pair = make("div");
        pair.append(make("dt", title), make("dd", value));
        return pair;
      }));
      this.find(".over-time").hidden = !facts.timeline;
      // Made by vqathinker of numbers alone.
      this.find(".over-time div").innerHTML = facts.timeline ?? "";
      this.find(".moments").textContent = facts.moments && ` · worst: ${facts.moments}`;
      this.find(".named").hidden = !facts.distortions.length;
      this.find(".named .chip").textContent = facts.distortions.join(", ");
      this.find(".notes").replaceChildren(...facts.warnings.map((one) => make("li", one)));
      this.find(".reason").textContent = facts.reasoning ?? readable(facts.response ?? "");
      this.find(".live").hidden = true;
      const answers = facts.responses.length;
      this.find(".answers").hidden = !answers;
      this.find(".answers summary").textContent = answers > 1 ? `All ${answers} answers as they came` : "The answer as it came";
      this.find(".answers ol").replaceChildren(...facts.responses.map((one, place) => {
        const score = facts.scores[place];
        const item = make("li");
        item.append(make("strong", score === null || score === undefined ? "no score" : two(score)), " ", make("span", one));
        return item;
      }));
      this.find(".facts").textContent = [facts.facts, size(this.file.size), `judged in ${facts.seconds} s`].filter(Boolean).join(" · ");
      this.root.dataset.state = "judged";
      this.reveal("verdict");
      this.reveal("thoughts");
      this.reveal("again");
      results[this.letter] = facts.score === null ? null : { score: facts.score, std: facts.std, kind: facts.kind };
      compare();
    }

    end() {
      if (this.source) this.source.close();
      clearInterval(this.clock);
      this.source = this.doing = null;
      this.find(".progress").hidden = true;
      this.find(".thoughts").classList.remove("writing");
      queue();
    }

    fail(reason) {
      this.end();
      this.id = null;
      this.root.dataset.state = "failed";
      this.find(".failure").textContent = reason.charAt(0).toUpperCase() + reason.slice(1) + (/[.!?]$/.test(reason) ? "" : ".");
      this.find(".live").hidden = true;
      this.reveal("failure");
      this.reveal("again");
    }

    stop() {
      if (this.request) {
        this.request.abort();
        this.request = null;
        this.fail("Stopped.");
      } else if (this.source) {
        fetch("jobs/" + this.id, { method: "DELETE", headers, keepalive: true }).catch(() => {});
        this.doing = "Stopping…";
        this.status(this.doing);
      }
    }
  }

  function compare() {
    const box = document.getElementById("versus");
    const { A, B } = results;
    box.hidden = !(A && B);
    if (!A || !B) return;
    const track = box.querySelector(".track");
    marks(track, A.score, null, []);
    track.querySelector(".dot").remove();
    const put = (name, left, width, text) => {
      const made = make("i", text);
      made.className = name;
      made.style.left = left + "%";
      if (width !== null) made.style.width = width + "%";
      track.append(made);
    };
    for (const [letter, one] of [["A", A], ["B", B]]) {
      if (one.std) put("spread " + letter, percent(one.score - one.std), percent(one.score + one.std) - percent(one.score - one.std), "");
    }
    for (const [letter, one] of [["A", A], ["B", B]]) put("dot " + letter, percent(one.score), null, letter);
    const distance = Math.abs(A.score - B.score);
    const better = A.score > B.score ? "A" : "B";
    const overlaps = A.std !== null && B.std !== null && distance < A.std + B.std;
    let said = distance < 0.005 ? "A and B have the same score." : `${better} is scored ${two(distance)} above ${better === "A" ? "B" : "A"}.`;
    if (overlaps && distance >= 0.005) said += " Their spreads overlap: asked again, the model might put them the other way round.";
    if (A.std === null || B.std === null) said += " One answer each says nothing about how sure this is.";
    box.querySelector("p").textContent = said;
    track.setAttribute("aria-label", `A ${two(A.score)}, B ${two(B.score)} on the line from 1, worst, to 5, best`);
  }

  const lanes = [new Lane("A"), new Lane("B")];
  // A file dropped beside a lane must not replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
  addEventListener("pagehide", () => lanes.forEach((lane) => lane.stop()));

  async function queue() {
    const box = document.getElementById("queue");
    try {
      const { running, waiting } = await (await fetch("queue")).json();
      const waits = waiting ? `, ${waiting} waiting` : "";
      box.textContent = running || waiting ? `Queue: ${running} being judged${waits}.` : "Queue: nothing is being judged.";
    } catch {
      box.textContent = "vqathinker app does not answer: it was closed, or the connection is lost.";
    }
  }
  queue();
  setInterval(() => { if (!document.hidden) queue(); }, 2000);
})();
