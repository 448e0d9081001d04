// What the scripts of clients from npm share: a line of JSON for each thing that was tried.

// The API's root, and the model's name.
export const [url, name] = process.argv.slice(2);

export async function trying(what, work) {
  let why = "";
  try {
    await work();
  } catch (error) {
    console.error(error);
    why = String(error).split("\n")[0];
  }
  console.log(JSON.stringify({ what, why }));
}

export function assert(is, words) {
  if (!is) throw new Error(words);
}
