// Runs once, when Gradio has put page.html into `element`. The rest is in room/.
import("/room/room.js").then((room) => room.start(element));
