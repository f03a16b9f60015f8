// A street image to look around in: panoramas by WebGL, photographs flat. Knows nothing of maps.
// A stated tilt is not taken out: the image is shown as the camera leaned.

const VERTEX = `
attribute vec2 corner;
varying vec2 place;
void main() { place = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;

// Right, up and forward are x, y and z. Fractions count from the image's left and top edge.
const FRAGMENT = `
precision highp float;
varying vec2 place;
uniform sampler2D image;
uniform vec2 reach;   // tangents of half the view, across and up
uniform vec2 look;    // radians from the image's centre column, and above the horizon
uniform vec2 extent;  // of the image: radians, but the tangents' range upward of a cylinder
uniform float horizon;
uniform bool isCylinder;
void main() {
  vec3 flat_ray = vec3(place * reach, 1.0);
  float c = cos(look.y), s = sin(look.y);
  vec3 ray = vec3(flat_ray.x, flat_ray.y * c + s, c - flat_ray.y * s);
  float azimuth = mod(look.x + atan(ray.x, ray.z) + 3.14159265, 6.2831853) - 3.14159265;
  float slope = ray.y / length(ray.xz);
  vec2 at = vec2(0.5 + azimuth / extent.x, horizon - (isCylinder ? slope : atan(slope)) / extent.y);
  bool isInside = at == clamp(at, 0.0, 1.0);
  gl_FragColor = isInside ? texture2D(image, at) : vec4(0.2, 0.23, 0.26, 1.0);
}`;

const WIDEST = 4096; // pixels of a texture, as small graphics processors take it
const PANORAMA = 1.9; // width by height from which an image without a stated projection is one
const WINDS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];

const radians = (degrees) => (degrees * Math.PI) / 180;
const clamp = (value, most) => Math.max(-most, Math.min(most, value));

function programOf(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
  const corner = gl.getAttribLocation(program, "corner");
  gl.enableVertexAttribArray(corner);
  gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  return program;
}

// What the image covers of the sphere. geometry: of a fix, or null; ratio: width by height.
export function coverOf(geometry, ratio) {
  const stated = (name) => geometry?.[name]?.value ?? null;
  const isPanorama = ratio >= PANORAMA || (geometry && stated("projection") !== "rectilinear");
  const projection = stated("projection") ?? (isPanorama ? "equirectangular" : "rectilinear");
  const across = radians(stated("horizontal_fov_deg") ?? 360);
  const square = across / ratio;
  const stands = stated("vertical_fov_deg");
  const up = projection === "cylindrical" || stands === null ? square : radians(stands);
  return { projection, across, up, horizon: stated("horizon") ?? 0.5 };
}

export class PanoramaViewer {
  // element: holds an <img>, a <canvas> and the compass. onLook: called with the heading looked at
  // and the degrees of the view, or with null for a photograph.
  constructor(element, onLook) {
    Object.assign(this, { element, onLook, heading: 0, cover: null, held: new Map() });
    [this.flat, this.canvas, this.compass] = element.querySelectorAll("img, canvas, .compass");
    this.gl = this.canvas.getContext("webgl", { antialias: false });
    if (this.gl) this.program = programOf(this.gl);
    this.canvas.addEventListener("webglcontextlost", () => { this.gl = null; });
    this.compass.append(...WINDS.map((wind) => Object.assign(document.createElement("span"), { textContent: wind })));
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  // source: a Blob or null. heading: of the image's centre, or null.
  async show(source, geometry, heading, name) {
    this.heading = heading;
    if (source !== this.source) this.loading = this.load(source, name);
    await this.loading;
    if (source !== this.source || !source) return; // another image was chosen meanwhile
    const cover = coverOf(geometry, this.ratio);
    this.cover = this.gl && cover.projection !== "rectilinear" ? cover : null;
    this.flat.hidden = Boolean(this.cover);
    this.canvas.hidden = this.compass.hidden = !this.cover;
    this.draw();
  }

  async load(source, name) {
    Object.assign(this, { source, cover: null, yaw: 0, pitch: 0, view: radians(90) });
    URL.revokeObjectURL(this.flat.src);
    this.flat.removeAttribute("src");
    this.flat.hidden = this.canvas.hidden = this.compass.hidden = true;
    this.flat.alt = name;
    this.onLook(null);
    if (!source) return;
    this.flat.src = URL.createObjectURL(source);
    const whole = await createImageBitmap(source).catch(() => null);
    this.ratio = whole ? whole.width / whole.height : 1;
    if (!whole || !this.gl || source !== this.source) return;
    const picture = whole.width > WIDEST ? await createImageBitmap(whole, { resizeWidth: WIDEST, resizeQuality: "medium" }) : whole;
    if (source === this.source) {
      this.gl.texImage2D(this.gl.TEXTURE_2D, 0, this.gl.RGB, this.gl.RGB, this.gl.UNSIGNED_BYTE, picture);
    }
    picture.close();
  }

  turn(yaw, pitch, zoom = 1) {
    if (!this.cover) return;
    const { across } = this.cover;
    this.view = Math.max(radians(20), Math.min(radians(120), this.view * zoom, across));
    this.yaw = across >= radians(359) ? this.yaw + yaw : clamp(this.yaw + yaw, Math.max(0, (across - this.view) / 2));
    this.pitch = clamp(this.pitch + pitch, radians(85));
    this.draw();
  }

  listen() {
    const { element, held } = this;
    element.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, event);
      element.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      element.addEventListener(end, ({ pointerId }) => held.delete(pointerId));
    }
    element.addEventListener("pointermove", (event) => this.drag(event));
    element.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.turn(0, 0, event.deltaY > 0 ? 1.1 : 1 / 1.1);
    }, { passive: false });
    element.addEventListener("keydown", (event) => {
      const step = radians(10);
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step], "+": [0, 0, 1 / 1.2], "-": [0, 0, 1.2] };
      if (!(event.key in moves)) return;
      event.preventDefault();
      this.turn(...moves[event.key]);
    });
  }

  // One pointer looks around, two pinch.
  drag(event) {
    const before = this.held.get(event.pointerId);
    if (!before || !this.cover) return;
    const other = [...this.held.values()].find(({ pointerId }) => pointerId !== event.pointerId);
    const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const pixel = this.view / this.canvas.clientWidth;
    this.held.set(event.pointerId, event);
    if (other) this.turn(0, 0, apart(before) / Math.max(1, apart(event)));
    else this.turn((before.clientX - event.clientX) * pixel, (event.clientY - before.clientY) * pixel);
  }

  draw() {
    if (!this.cover) return;
    const { gl, program, cover, canvas } = this;
    const at = (name) => gl.getUniformLocation(program, name);
    canvas.width = canvas.clientWidth * devicePixelRatio;
    canvas.height = canvas.clientHeight * devicePixelRatio;
    const reach = Math.tan(this.view / 2);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform2f(at("reach"), reach, (reach * canvas.height) / canvas.width);
    gl.uniform2f(at("look"), this.yaw, this.pitch);
    gl.uniform2f(at("extent"), cover.across, cover.up);
    gl.uniform1f(at("horizon"), cover.horizon);
    gl.uniform1i(at("isCylinder"), cover.projection === "cylindrical" ? 1 : 0);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    const facing = (((this.heading ?? 0) + (this.yaw * 180) / Math.PI) % 360 + 360) % 360;
    this.mark(facing, reach);
    this.onLook(facing, (this.view * 180) / Math.PI);
  }

  // The winds along the upper edge, where they are in sight.
  mark(facing, reach) {
    this.compass.hidden = this.heading === null;
    [...this.compass.children].forEach((wind, number) => {
      const off = radians(((number * 45 - facing + 540) % 360) - 180);
      const x = 0.5 + Math.tan(off) / (2 * reach);
      wind.hidden = Math.abs(off) >= Math.PI / 2 || x < 0.02 || x > 0.98;
      wind.style.left = `${100 * x}%`;
    });
  }
}
