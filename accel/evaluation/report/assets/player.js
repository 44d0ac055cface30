// Steps through the clips. A fragment such as #clip=1&frame=7 opens clip 1 (from 0) at its frame 7 (from 1).
(() => {
  "use strict";
  const clips = JSON.parse(document.getElementById("clips").textContent);
  const byId = (id) => document.getElementById(id);
  const player = byId("player");
  const slider = byId("slider");
  const groups = [...player.querySelectorAll(".group")];
  const pictures = groups.map((group) => [...group.querySelectorAll("img:not(.under)")]);
  const EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
  const FRAMES_A_SECOND = 6;
  let clip = 0;
  let place = 0;
  let timer = null;

  const element = (name, className, text) => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  };

  // under: the picture that this one lies on, if it is transparent.
  function show(image, source, under) {
    image.src = source || EMPTY;
    image.previousElementSibling.src = (source && under) || EMPTY;
    const caption = image.parentElement.nextElementSibling;
    caption.textContent = image.alt + (source ? "" : ": this frame has none");
  }

  function draw() {
    const { frames, over } = clips[clip];
    const frame = frames[place];
    const under = over ? frame.image : null;
    show(pictures[0][0], frame.image);
    show(pictures[0][1], frame.truth, under);
    frame.models.forEach((model, i) => {
      const group = groups[i + 1];
      show(pictures[i + 1][0], model.prediction, under);
      show(pictures[i + 1][1], model.errors, under);
      const state = group.querySelector(".state");
      const since = `${model.distance} after its key frame`;
      const wrong = model.note ? `; ${model.note}` : "";
      state.replaceChildren(model.distance ? element("span", "", since) : element("span", "key", "key frame"), wrong);
      [...group.querySelector(".track").children].forEach((cell, at) => cell.classList.toggle("here", at === place));
    });
    slider.value = place;
    byId("where").textContent = `frame ${place + 1} of ${frames.length} (number ${frame.number} of the video)`;
  }

  function open(which, at) {
    clip = Math.min(Math.max(which, 0), clips.length - 1);
    const { frames, size } = clips[clip];
    byId("clip").value = clip;
    slider.max = frames.length - 1;
    // Pictures that are not there keep the shape of those that are.
    pictures.flat().forEach((image) => { image.style.aspectRatio = `${size[0]} / ${size[1]}`; });
    groups.slice(1).forEach((group, i) => {
      group.querySelector(".track").replaceChildren(...frames.map((frame, number) => {
        const cell = element("i", frame.models[i].distance ? "" : "at-key", "");
        cell.addEventListener("click", () => { pause(); go(number); });
        return cell;
      }));
    });
    go(at);
  }

  function go(to) {
    place = Math.min(Math.max(to, 0), clips[clip].frames.length - 1);
    draw();
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    byId("play").textContent = "Play";
  }

  function toggle() {
    if (timer !== null) return pause();
    byId("play").textContent = "Pause";
    timer = setInterval(() => go((place + 1) % clips[clip].frames.length), 1000 / FRAMES_A_SECOND);
  }

  function followAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    const which = Math.min(Math.max(Math.trunc(Number(wanted.get("clip"))) || 0, 0), clips.length - 1);
    const frame = Math.trunc(Number(wanted.get("frame")));
    open(which, frame ? frame - 1 : clips[which].start);
  }

  byId("back").addEventListener("click", () => { pause(); go(place - 1); });
  byId("next").addEventListener("click", () => { pause(); go(place + 1); });
  byId("play").addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); go(Number(slider.value)); });
  byId("clip").addEventListener("change", (event) => {
    const which = Number(event.target.value);
    pause();
    open(which, clips[which].start);
  });
  player.addEventListener("keydown", (event) => {
    if (event.target.tagName === "SELECT" || event.ctrlKey || event.altKey || event.metaKey) return;
    const steps = {
      ArrowLeft: () => go(place - 1),
      ArrowRight: () => go(place + 1),
      Home: () => go(0),
      End: () => go(Infinity),
    };
    if (event.key in steps) {
      pause();
      steps[event.key]();
    } else if (event.key === " " && event.target.tagName !== "BUTTON") {
      toggle();
    } else {
      return;
    }
    event.preventDefault();
  });
  addEventListener("hashchange", followAddress);
  player.querySelector(".controls").hidden = false;
  followAddress();
})();
