// Turns the text that Python packed (report/site/pack.py) back into plain data and typed arrays.

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const headLength = Number(new DataView(buffer).getBigUint64(0, true));
  const columns = 8 + headLength;
  const types = { Uint8Array, Uint16Array, Uint32Array, Int32Array, Float32Array, Float64Array };
  const revive = (key, value) => {
    if (value === null || typeof value !== "object" || !("$" in value)) return value;
    const [offset, type, length] = value.$;
    return new types[type](buffer, columns + offset, length);
  };
  return JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headLength)), revive);
}
