// Small pictures of street images, for the list.

const WIDTH = 240; // pixels

// A JPEG, or null for an image that this browser cannot show, such as HEIC.
export async function thumbnailOf(file) {
  const picture = await createImageBitmap(file, { resizeWidth: WIDTH, resizeQuality: "medium" }).catch(() => null);
  if (!picture) return null;
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
  return canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
}
