(() => {
  const about = $ABOUT;
  const atlas = new Image();
  const start = (root) => {
    root.dataset.ready = "yes";
    const [w, h] = about.size;
    const canvas = document.createElement("canvas");
    canvas.width = w;
    canvas.height = h;
    canvas.style.cssText = `width:${w * about.magnify}px;height:${h * about.magnify}px;image-rendering:pixelated;cursor:crosshair;touch-action:none`;
    canvas.setAttribute("role", "img");
    const place = about.start.slice();
    const sliders = [];
    const draw = () => {
      let index = 0;
      about.axes.forEach((axis, i) => { index = index * axis.places.length + place[i]; });
      const x = (index % about.columns) * w, y = Math.floor(index / about.columns) * h;
      canvas.getContext("2d").drawImage(atlas, x, y, w, h, 0, 0, w, h);
      sliders.forEach((s, i) => { s.input.value = place[i]; s.text.textContent = about.axes[i].places[place[i]]; });
      canvas.setAttribute("aria-label", about.axes.map((a, i) => `${a.name}: ${a.places[place[i]]}`).join(", "));
    };
    const controls = document.createElement("div");
    controls.style.cssText = "display:grid;grid-template-columns:max-content 160px max-content;gap:6px 10px;align-items:center;margin-top:8px";
    about.axes.forEach((axis, i) => {
      const name = document.createElement("label");
      name.textContent = axis.name;
      const input = document.createElement("input");
      input.type = "range";
      input.min = 0;
      input.max = axis.places.length - 1;
      input.setAttribute("aria-label", axis.name);
      input.addEventListener("input", () => { place[i] = Number(input.value); draw(); });
      const text = document.createElement("output");
      controls.append(name, input, text);
      sliders.push({ input, text });
    });
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect(), last = about.axes.length - 1;
      const at = (part, n) => Math.max(0, Math.min(n - 1, Math.floor(part * n)));
      if (last > 0) place[0] = at((event.clientY - box.top) / box.height, about.axes[0].places.length);
      place[last] = at((event.clientX - box.left) / box.width, about.axes[last].places.length);
      draw();
    });
    root.querySelector("img").replaceWith(canvas);
    root.append(controls);
    draw();
  };
  atlas.onload = () => document.querySelectorAll('[data-invariances="$KEY"]:not([data-ready])').forEach(start);
  atlas.src = "$ATLAS";
})();
