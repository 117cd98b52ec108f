// A worker: fetches a picture and makes of it what the screen will show, so that neither holds a key press up.

addEventListener("message", async ({ data: { id, address, width, height } }) => {
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(String(answer.status));
    const blob = await answer.blob();
    const bitmap = await createImageBitmap(blob, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
    postMessage({ id, bitmap }, [bitmap]);
  } catch {
    postMessage({ id, bitmap: null });
  }
});
