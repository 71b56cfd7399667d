"use strict";
// An enlarged picture of a shape becomes the shape: drag to turn, scroll to come nearer; all columns turn together.
{
  const VERTEX = `attribute vec3 place, normal; uniform mat3 turn; uniform float near; varying vec3 n;
    void main() { vec3 p = turn * place; n = turn * normal; gl_Position = vec4(p.xy * near, -p.z * .3, 1.); }`;
  const FRAGMENT = `precision mediump float; varying vec3 n;
    void main() { vec3 m = normalize(n); float key = max(dot(m, normalize(vec3(-.45, .82, .5))), 0.);
      gl_FragColor = vec4(vec3(.47, .63, .80) * (.45 + .75 * key + .15 * max(m.z, 0.)), 1.); }`;
  const seen = { yaw: Math.PI / 6, pitch: 0.44, near: 1.25 };
  const open = new Set();

  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  };

  // Positions about the middle, y up, and the mean normal of the faces at each vertex.
  const unpack = (data) => {
    const [count, faces] = new Uint32Array(data, 0, 2);
    const raw = new Uint16Array(data, 8, 3 * count);
    const corners = new Uint16Array(data.slice(8 + 6 * count, 8 + 6 * count + 6 * faces));
    const place = new Float32Array(3 * count);
    const normal = new Float32Array(3 * count);
    let top = 0;
    for (let i = 2; i < raw.length; i += 3) top = Math.max(top, raw[i]);
    for (let i = 0; i < place.length; i += 3) {
      place[i] = raw[i] / 1023 - 0.5;
      place[i + 1] = (raw[i + 2] - top / 2) / 1023;
      place[i + 2] = 0.5 - raw[i + 1] / 1023;
    }
    for (let f = 0; f < corners.length; f += 3) {
      const [a, b, c] = [3 * corners[f], 3 * corners[f + 1], 3 * corners[f + 2]];
      const u = [0, 1, 2].map((k) => place[b + k] - place[a + k]);
      const v = [0, 1, 2].map((k) => place[c + k] - place[a + k]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (const corner of [a, b, c]) for (let k = 0; k < 3; k++) normal[corner + k] += n[k];
    }
    return { place, normal, corners };
  };

  const prepare = (gl, { place, normal, corners }) => {
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    for (const [name, data] of [["place", place], ["normal", normal]]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      const at = gl.getAttribLocation(program, name);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, 3, gl.FLOAT, false, 0, 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    gl.enable(gl.DEPTH_TEST);
    return () => {
      const [c, s, d, t] = [Math.cos(seen.yaw), Math.sin(seen.yaw), Math.cos(seen.pitch), Math.sin(seen.pitch)];
      gl.clearColor(0, 0, 0, 0);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), false, [c, t * s, -d * s, 0, d, t, s, -t * c, d * c]);
      gl.uniform1f(gl.getUniformLocation(program, "near"), seen.near);
      gl.drawElements(gl.TRIANGLES, corners.length, gl.UNSIGNED_SHORT, 0);
    };
  };

  const draw = () => open.forEach((shown) => {
    if (shown.canvas.isConnected) return shown.draw();
    shown.gl.getExtension("WEBGL_lose_context")?.loseContext();
    open.delete(shown);
  });

  const turnable = async (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 640;
    canvas.style.cssText = "width: min(100%, 320px); aspect-ratio: 1; cursor: grab; touch-action: none";
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${image.alt}: drag to turn`);
    const gl = canvas.getContext("webgl");
    if (!gl || !window.DecompressionStream) return; // the picture stays
    const shown = { canvas, gl, draw: prepare(gl, unpack(await inflate(image.dataset.mesh))) };
    if (!image.isConnected) return;
    image.replaceWith(canvas);
    open.add(shown);
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      seen.yaw += event.movementX / 120;
      seen.pitch = Math.max(-1.5, Math.min(1.5, seen.pitch + event.movementY / 120));
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      seen.near = Math.max(0.5, Math.min(6, seen.near * Math.exp(-event.deltaY / 600)));
      draw();
    }, { passive: false });
    draw();
  };

  const dialog = document.getElementById("zoom");
  if (dialog) {
    new MutationObserver(() => {
      for (const image of dialog.querySelectorAll("img[data-mesh]:not([data-taken])")) {
        image.dataset.taken = "";
        turnable(image);
      }
    }).observe(dialog, { childList: true, subtree: true });
  }
}
